-- Who drives a session: a program, or a person; and who may watch.

-- Good once and briefly, for sockets. Only hashes.
create table ws_tickets (
    hash text primary key,
    user_id text not null references users (id),
    -- The login, key or share that it was given to, under this version of access.
    credential text not null,
    access_version bigint not null,
    -- JSON; null: all that its user may.
    scopes text,
    right_name text not null check (right_name in ('view', 'drive', 'own')),
    -- Null: every session of its user.
    session_id text,
    -- On the database's own clock.
    expires_at bigint not null
);

create index ws_tickets_by_user on ws_tickets (user_id, expires_at);
create index ws_tickets_by_expiry on ws_tickets (expires_at);

-- Links with which somebody without an account sees or drives one session.
create table shares (
    id text primary key,
    session_id text not null references sessions (id),
    user_id text not null references users (id),
    name text,
    hash text not null constraint shares_hash unique,
    right_name text not null check (right_name in ('view', 'drive')),
    created_at bigint not null,
    expires_at bigint not null,
    last_used_at bigint,
    revoked_at bigint
);

create index shares_by_session on shares (session_id, id);
create index shares_by_user on shares (user_id);
create index shares_by_revocation on shares (revoked_at);

-- None: the automation drives, and always did.
create table session_control (
    session_id text primary key references sessions (id),
    -- Grows with each change: who writes names the one that they read.
    version bigint not null,
    -- JSON. Times in it are on the database's own clock.
    state text not null,
    changed_at bigint not null
);

create index session_control_by_change on session_control (changed_at);
