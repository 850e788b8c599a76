-- One row a job. `doc` is the whole job as JSON and the truth; the other columns repeat what the queries ask for.
CREATE TABLE jobs (
    id         BLOB    NOT NULL UNIQUE, -- 16 bytes, big-endian: order of bytes is order of submission
    account    TEXT    NOT NULL,
    state      INTEGER NOT NULL,        -- 0 scheduled, 1 queued, 2 assigned, 3 running, 4 succeeded, 5 failed, 6 cancelled
    revision   INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    session    BLOB,                    -- of the lease, while assigned or running
    due        INTEGER,                 -- scheduled: when it starts; queued: when it gives up waiting
    cancelling INTEGER NOT NULL,        -- 1: running, and its agent has yet to confirm a cancel
    hidden     INTEGER NOT NULL,
    doc        TEXT    NOT NULL
);

-- Lists of an account, newest first, and the counts by state.
CREATE INDEX jobs_by_account ON jobs (account, state, id);
-- Everything that has not ended: the queue made anew, sweeps, take-over. Covers what is filtered, so that only rows
-- that are wanted are fetched.
CREATE INDEX jobs_active ON jobs (state, id, session, epoch) WHERE state < 4;
CREATE INDEX jobs_due ON jobs (state, due) WHERE due IS NOT NULL;
CREATE INDEX jobs_cancelling ON jobs (id, session) WHERE cancelling = 1;

-- Clients' own names for their submissions, kept for 24 hours.
CREATE TABLE submissions (
    account     TEXT    NOT NULL,
    submitter   TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,
    job         BLOB    NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (account, submitter, key)
) WITHOUT ROWID;
CREATE INDEX submissions_by_age ON submissions (at);
