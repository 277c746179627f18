-- The pool: how each machine was asked for, and how it is.

alter table instances add column generation bigint not null default 1;
-- The newest request. It is written before it is sent, and sent as it was written.
alter table instances add column attempt bigint not null default 0;
alter table instances add column attempt_state text not null default 'wanted';
alter table instances add column attempt_at bigint not null default 0;
alter table instances add column attempt_sends bigint not null default 0;
alter table instances add column request text;
alter table instances add column offering text;
-- The offerings that refused it already.
alter table instances add column tried text not null default '[]';
-- When its holder asked for it by itself.
alter table instances add column asked_for_at bigint;
alter table instances add column assigned_at bigint;
alter table instances add column launched_at bigint;
alter table instances add column token_at bigint;
alter table instances add column enrolled_at bigint;
alter table instances add column ready_at bigint;
alter table instances add column seen_at bigint;
alter table instances add column status_at bigint not null default 0;
alter table instances add column boot_id text;
alter table instances add column boot_phases text;
alter table instances add column figures text;
alter table instances add column draining_reason text;
alter table instances add column draining_at bigint;
alter table instances add column drain_until bigint;
alter table instances add column unhealthy_reason text;
alter table instances add column unhealthy_at bigint;
alter table instances add column missing_since bigint;
alter table instances add column end_asked_at bigint;
alter table instances add column restart_mode text;
alter table instances add column restart_at bigint;
alter table instances add column restart_told_at bigint;
alter table instances add column recycling_since bigint;
alter table instances add column uses bigint not null default 0;
-- Since when a machine may be there although the row has given up.
alter table instances add column left_behind_at bigint;
alter table instances add column error_code text;
alter table instances add column zone text;
alter table instances add column image text;
alter table instances add column public_dns text;
alter table instances add column public_ip text;
alter table instances add column private_ip text;

update instances set status_at = last_activity_at, attempt_at = created_at;
update instances set attempt = 1, attempt_state = 'accepted', launched_at = created_at
    where reference is not null;
update instances set enrolled_at = created_at where certificate_serial is not null;
update instances set ready_at = created_at where status = 'running';
update instances set assigned_at = last_activity_at, uses = 1 where assigned_to_user_id is not null;
update instances set left_behind_at = created_at where status = 'error';

create index instances_by_reference on instances (reference);
create index instances_by_assignment on instances (assigned_at);
create index instances_by_holder on instances (assigned_to_user_id, id);

-- Until when somebody waits for a queued session.
alter table sessions add column wait_until bigint;
-- Why a session ends before its time, where that is known.
alter table sessions add column ending_reason text;

create index sessions_by_end on sessions (ended_at);

-- What the administrators want of the pool other than the settings say, and what
-- its instances are made from.
create table pool (
    one bigint primary key check (one = 1),
    overrides text not null,
    version bigint not null,
    image text,
    generation bigint not null,
    changed_at bigint not null
);

-- Who leads, until when, on the clock of the database.
create table lead (
    name text primary key,
    holder text not null,
    epoch bigint not null,
    until_at bigint not null
);
