-- How users sign in, and what is known of it afterwards.

-- An empty password_hash: the account has no password, only identities.
alter table users add column email_verified_at bigint;
alter table users add column deleted_at bigint;
alter table users add column erased_at bigint;
alter table users add column settings_version bigint not null default 1;
-- Access that was given under an older version is refused.
alter table users add column access_version bigint not null default 1;
alter table users add column access_changed_at bigint not null default 0;
alter table users add column second_factor_required_at bigint;
-- Null: as the deployment has it.
alter table users add column sessions_max bigint;
alter table users add column instances_max bigint;
alter table users add column commands_per_minute_max bigint;

update users set email_verified_at = created_at;

create index users_by_access_change on users (access_changed_at);

create table login_sessions (
    id text primary key,
    user_id text not null references users (id),
    -- That of its newest refresh token.
    generation bigint not null,
    -- When the token before the newest was taken once more.
    repeated_at bigint,
    created_at bigint not null,
    last_activity_at bigint not null,
    expires_at bigint not null,
    address text,
    user_agent text,
    ended_at bigint,
    end_reason text
);

create index login_sessions_by_user on login_sessions (user_id, id);
create index login_sessions_by_end on login_sessions (ended_at);
create index login_sessions_by_expiry on login_sessions (expires_at);

-- All of a family, so that an old one is known for what it is. Only hashes.
create table refresh_tokens (
    hash text primary key,
    login_session_id text not null references login_sessions (id),
    generation bigint not null
);

create unique index refresh_tokens_by_login on refresh_tokens (login_session_id, generation);

-- What a mail carries: proof of an address, once. Only hashes.
create table mail_tokens (
    hash text primary key,
    purpose text not null check (purpose in ('verification', 'email_change', 'reset', 'invitation')),
    user_id text references users (id),
    email text not null,
    created_at bigint not null,
    expires_at bigint not null
);

create index mail_tokens_by_email on mail_tokens (purpose, email);
create index mail_tokens_by_user on mail_tokens (user_id);

create table api_keys (
    id text primary key,
    user_id text not null references users (id),
    name text not null,
    hash text not null constraint api_keys_hash unique,
    -- Its first characters, so that its owner knows it again.
    hint text not null,
    scopes text not null,
    created_at bigint not null,
    expires_at bigint,
    last_used_at bigint,
    revoked_at bigint
);

create index api_keys_by_user on api_keys (user_id, id);
create index api_keys_by_revocation on api_keys (revoked_at);

-- Who somebody is elsewhere.
create table identities (
    id text primary key,
    user_id text not null references users (id),
    provider text not null,
    subject text not null,
    email text,
    created_at bigint not null,
    last_login_at bigint,
    constraint identities_subject unique (provider, subject)
);

create index identities_by_user on identities (user_id);

create table second_factors (
    user_id text primary key references users (id),
    -- Sealed with the deployment's key.
    secret text not null,
    created_at bigint not null,
    confirmed_at bigint,
    -- The time step of the last code that was taken; none is taken twice.
    last_step bigint not null
);

create table recovery_codes (
    hash text primary key,
    user_id text not null references users (id),
    used_at bigint
);

create index recovery_codes_by_user on recovery_codes (user_id);
