-- Whose a used token is: the key that it was used with may have its certificate again.
-- Nothing where it was used with a request that could not be signed.
alter table join_tokens add column key_fingerprint text;

-- All that goes into an instance but its own names and its place, as a hash; where it
-- changes, instances are of a new generation.
alter table pool add column making text;
