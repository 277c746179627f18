-- Sessions and the history of their commands.

create table sessions (
    id text primary key,
    user_id text not null references users (id),
    instance_id text references instances (id),
    epoch bigint not null,
    -- 0 queued, 1 starting, 2 live, 3 ending, 4 ended: it only grows.
    status_rank bigint not null check (status_rank between 0 and 4),
    end_reason text,
    error_message text,
    name text,
    metadata text not null,
    spec text not null,
    timeout_us bigint not null,
    idle_timeout_us bigint not null,
    created_at bigint not null,
    started_at bigint,
    expires_at bigint not null,
    last_activity_at bigint not null,
    ended_at bigint,
    current_url text,
    current_title text
);

create index sessions_by_user on sessions (user_id, id);
create index sessions_by_instance on sessions (instance_id, status_rank);
create index sessions_alive on sessions (status_rank) where status_rank < 4;

create table session_metadata (
    session_id text not null references sessions (id),
    key text not null,
    value text not null,
    primary key (session_id, key)
);

create index session_metadata_by_value on session_metadata (key, value);

create table commands (
    id text primary key,
    session_id text not null references sessions (id),
    kind text not null,
    params text not null,
    status text not null,
    result text,
    error_code text,
    error_message text,
    started_at bigint not null,
    deadline_at bigint not null,
    ended_at bigint
);

create index commands_by_session on commands (session_id, id);
create index commands_pending on commands (deadline_at) where ended_at is null;
