-- Everything small that must not wait behind jobs: workers, sessions, the leader's term, identity, the index of files.
CREATE TABLE terms (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL
);

CREATE TABLE workers (
    id  TEXT PRIMARY KEY,
    doc TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE sessions (
    id        BLOB    PRIMARY KEY,
    worker    TEXT    NOT NULL,
    beat      INTEGER NOT NULL,
    conn      INTEGER NOT NULL,
    lost      INTEGER NOT NULL,
    opened_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX sessions_live ON sessions (id) WHERE lost = 0;

CREATE TABLE accounts (
    id  TEXT PRIMARY KEY,
    doc TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE users (
    id   TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    doc  TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE logins (
    id           BLOB    PRIMARY KEY,
    user         TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    idle_end     INTEGER NOT NULL,
    absolute_end INTEGER NOT NULL,
    revoked      INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX logins_by_user ON logins (user);
CREATE INDEX logins_by_end ON logins (absolute_end);

CREATE TABLE api_keys (
    id  BLOB PRIMARY KEY,
    doc TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE files (
    id      BLOB PRIMARY KEY,
    account TEXT NOT NULL,
    place   TEXT NOT NULL, -- the name in the folder of files; made by us, never by the uploader
    doc     TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX files_by_account ON files (account, id);
