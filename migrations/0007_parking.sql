-- Machines that booted once and were stopped, so that they start again soon.

-- `wanted`, `stopping`, `stopped`, `starting`; how far that is, since when.
alter table instances add column parking text;
alter table instances add column parking_at bigint;
-- When its machine was last told to stop or to start.
alter table instances add column power_asked_at bigint;
