-- Who did what, from where, and whether it was done. Nothing here refers to a
-- row that may go, and nothing here is a secret.

create table audit_events (
    id text primary key,
    at bigint not null,
    action text not null,
    result text not null check (result in ('done', 'refused')),
    actor_user_id text,
    actor_credential text,
    subject_user_id text,
    detail text,
    address text,
    user_agent text
);

create index audit_events_by_actor on audit_events (actor_user_id, id);
create index audit_events_by_subject on audit_events (subject_user_id, id);
create index audit_events_by_action on audit_events (action, id);
create index audit_events_by_age on audit_events (at);
