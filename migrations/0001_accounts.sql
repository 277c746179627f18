-- Users, and what belongs to this deployment as a whole.

create table deployment (
    one bigint primary key check (one = 1),
    id text not null,
    created_at bigint not null
);

create table users (
    id text primary key,
    email text not null constraint users_email unique,
    password_hash text not null,
    first_name text,
    last_name text,
    role text not null check (role in ('user', 'admin')),
    settings text not null,
    created_at bigint not null,
    updated_at bigint not null,
    last_login_at bigint,
    disabled_at bigint
);

-- Has at most one row: whoever writes it is the first administrator.
create table first_administrator (
    one bigint primary key check (one = 1),
    user_id text not null references users (id)
);

-- What was answered to which Idempotency-Key; a key without a status is under way.
create table idempotency_keys (
    user_id text not null references users (id),
    key text not null,
    fingerprint text not null,
    process text not null,
    claimed_at bigint not null,
    status bigint,
    content_type text,
    body text,
    primary key (user_id, key)
);

create index idempotency_keys_by_age on idempotency_keys (claimed_at);
