-- The test metrics of users who have no training event, by trial id (JSON), and how many such users there are.
ALTER TABLE reveals ADD COLUMN apart VARCHAR;
ALTER TABLE reveals ADD COLUMN apart_users BIGINT;
