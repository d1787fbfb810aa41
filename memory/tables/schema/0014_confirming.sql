-- The fresh seeds that the end of a study trains of its choice and of its default; none in studies from before.
ALTER TABLE study_closings ADD COLUMN chosen_seeds INTEGER[];
ALTER TABLE study_closings ADD COLUMN default_seeds INTEGER[];

-- What else the one look at the test showed: baselines (JSON), how many users, and how much the gain varies with them.
ALTER TABLE reveals ADD COLUMN baselines VARCHAR;
ALTER TABLE reveals ADD COLUMN users BIGINT;
ALTER TABLE reveals ADD COLUMN user_variance DOUBLE;
