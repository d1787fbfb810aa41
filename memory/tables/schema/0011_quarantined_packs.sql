-- Packs with something that this home does not know: nothing of them is stored but why.
CREATE TABLE quarantined_packs (
    digest VARCHAR PRIMARY KEY,
    position BIGINT NOT NULL DEFAULT nextval('positions'),
    quarantined_at TIMESTAMP NOT NULL,
    name VARCHAR NOT NULL,
    reasons VARCHAR[] NOT NULL
);
