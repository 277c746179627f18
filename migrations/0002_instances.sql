-- Instances. A row is here before its machine is anywhere.

create table instances (
    id text primary key,
    provider text not null,
    reference text,
    status text not null check (status in ('provisioning', 'running', 'stopping', 'terminated', 'error')),
    region text,
    instance_type text,
    error_message text,
    assigned_to_user_id text references users (id),
    epoch bigint not null,
    sessions_max bigint not null,
    certificate_serial text,
    created_at bigint not null,
    last_activity_at bigint not null,
    terminated_at bigint
);

create index instances_by_status on instances (status);

-- One-time tokens with which agents join; only their hashes.
create table join_tokens (
    hash text primary key,
    instance_id text not null references instances (id),
    expires_at bigint not null,
    used_at bigint
);
