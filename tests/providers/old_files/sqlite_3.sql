-- A storage as schema version 3 wrote it: three jobs, of which one is DONE and one RUNNING.
PRAGMA application_id = 1399877487;
PRAGMA user_version = 3;
BEGIN TRANSACTION;
CREATE TABLE backends(
        name TEXT PRIMARY KEY,
        config BLOB NOT NULL,
        config_etag TEXT NOT NULL,
        policy TEXT,
        policy_etag TEXT NOT NULL
    );
INSERT INTO "backends" VALUES('singlequdit',X'7B7D','44136fa355b3678a1146ad16f7e8649e','{"paused":false,"max_attempts":3,"max_crashes":5,"lease_ttl":"PT30S","resume_grace":"PT30S","lost_timeout":null,"cancel_grace":"PT30S","max_run_time":null,"max_queued":9,"round_robin":false}','5a698f798cdad39b8707fd68873421bc');
CREATE TABLE blobs(id TEXT PRIMARY KEY, data BLOB NOT NULL);
INSERT INTO "blobs" VALUES('singlequdit/6b055189cbac8b8ae1002ec1/content',X'7B226578706572696D656E745F30223A207B2273686F7473223A20347D7D');
INSERT INTO "blobs" VALUES('singlequdit/6b055189cbac8b8ae1002ec2/content',X'7B226578706572696D656E745F30223A207B2273686F7473223A20347D7D');
INSERT INTO "blobs" VALUES('singlequdit/6b055189cbac8b8ae1002ec3/content',X'7B226578706572696D656E745F30223A207B2273686F7473223A20347D7D');
INSERT INTO "blobs" VALUES('singlequdit/6b055189cbac8b8ae1002ec1/result/eed6b7879a72f082792bb7dca948cec4',X'7B2273756363657373223A20747275657D');
CREATE TABLE chunks(
        upload TEXT NOT NULL,
        offset INTEGER NOT NULL,
        data BLOB NOT NULL,
        UNIQUE (upload, offset)
    );
CREATE TABLE jobs(
        seq INTEGER PRIMARY KEY,     -- the number of the submit
        id TEXT NOT NULL,
        backend TEXT NOT NULL,
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        rank INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        change INTEGER NOT NULL,     -- the number of the newest commit
        session TEXT,                -- who holds it; not null in CLAIMED, RUNNING, CANCELLING only
        due_at INTEGER,              -- microseconds since 1970
        doc TEXT NOT NULL,           -- the job as JSON
        UNIQUE (id, backend)
    );
INSERT INTO "jobs" VALUES(2,'6b055189cbac8b8ae1002ec1','singlequdit','alice','DONE',1714979289000,4,7,NULL,NULL,'{"key":{"backend":"singlequdit","id":"6b055189cbac8b8ae1002ec1"},"owner":"alice","content":{"id":"singlequdit/6b055189cbac8b8ae1002ec1/content","size":30,"sha256":"7b5753665ca41cf98315efcbd1d0a937ee8ff5ee0ac773e5e39eb4bde93ae01a"},"seq":2,"rank":1714979289000,"request_id":"first","labels":{"run":"1"},"max_attempts":3,"revision":4,"state":"DONE","attempts":[{"number":1,"token":"eed6b7879a72f082792bb7dca948cec4","session":"session-1","spooler":"spooler","claimed_at":"2024-05-06T07:08:09Z","accepted_at":"2024-05-06T07:08:10Z","ended_at":"2024-05-06T07:08:11Z","outcome":"DONE"}],"attempt_count":1,"claim_count":1,"times":[{"state":"QUEUED","at":"2024-05-06T07:08:09Z"},{"state":"CLAIMED","at":"2024-05-06T07:08:09Z"},{"state":"RUNNING","at":"2024-05-06T07:08:10Z"},{"state":"DONE","at":"2024-05-06T07:08:11Z"}],"result":{"id":"singlequdit/6b055189cbac8b8ae1002ec1/result/eed6b7879a72f082792bb7dca948cec4","size":17,"sha256":"f1ea07a1e51a389c8de07120ae5c2e432e9dd8f4fbd6f92489f185b0523a3fd4"},"fraction":1.0}');
INSERT INTO "jobs" VALUES(3,'6b055189cbac8b8ae1002ec2','singlequdit','bob','RUNNING',1714979289000,3,9,'session-1',NULL,'{"key":{"backend":"singlequdit","id":"6b055189cbac8b8ae1002ec2"},"owner":"bob","content":{"id":"singlequdit/6b055189cbac8b8ae1002ec2/content","size":30,"sha256":"7b5753665ca41cf98315efcbd1d0a937ee8ff5ee0ac773e5e39eb4bde93ae01a"},"seq":3,"rank":1714979289000,"max_attempts":3,"revision":3,"state":"RUNNING","attempts":[{"number":1,"token":"c03554c457c00d64ef799fe8e5e38f49","session":"session-1","spooler":"spooler","claimed_at":"2024-05-06T07:08:09Z","accepted_at":"2024-05-06T07:08:10Z"}],"attempt_count":1,"claim_count":1,"times":[{"state":"QUEUED","at":"2024-05-06T07:08:09Z"},{"state":"CLAIMED","at":"2024-05-06T07:08:09Z"},{"state":"RUNNING","at":"2024-05-06T07:08:10Z"}],"fraction":0.0}');
INSERT INTO "jobs" VALUES(4,'6b055189cbac8b8ae1002ec3','singlequdit','alice','QUEUED',1714979289000,1,4,NULL,NULL,'{"key":{"backend":"singlequdit","id":"6b055189cbac8b8ae1002ec3"},"owner":"alice","content":{"id":"singlequdit/6b055189cbac8b8ae1002ec3/content","size":30,"sha256":"7b5753665ca41cf98315efcbd1d0a937ee8ff5ee0ac773e5e39eb4bde93ae01a"},"seq":4,"rank":1714979289000,"times":[{"state":"QUEUED","at":"2024-05-06T07:08:09Z"}]}');
CREATE TABLE meta(
        change INTEGER NOT NULL,     -- the newest change's number
        ranked_at INTEGER NOT NULL,  -- microseconds; the latest time that ranked a job: never runs backwards
        swept INTEGER NOT NULL,      -- the newest tombstone's number that is gone: older cursors are too old
        epoch TEXT NOT NULL          -- tells this file's cursors from another's
    );
INSERT INTO "meta" VALUES(13,1714979289000000,0,'6e977607');
CREATE TABLE probes(id TEXT PRIMARY KEY, revision INTEGER NOT NULL);
CREATE TABLE requests(
        owner TEXT NOT NULL,
        backend TEXT NOT NULL,
        request_id TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        id TEXT NOT NULL,            -- of the job
        at INTEGER NOT NULL,         -- rows lie in this order: the oldest are swept without a search
        UNIQUE (owner, backend, request_id)
    );
INSERT INTO "requests" VALUES('alice','singlequdit','first','af26dddb0bf4a38c7772ebb5031f21c8392a642ec5398088fb8897d00a095290','6b055189cbac8b8ae1002ec1',1714979289000000);
CREATE TABLE sessions(
        id TEXT PRIMARY KEY,
        principal TEXT NOT NULL,
        spooler_id TEXT NOT NULL,
        state TEXT NOT NULL,
        beat INTEGER NOT NULL,
        detached INTEGER NOT NULL,
        reason TEXT NOT NULL,
        closed_at INTEGER,
        doc TEXT NOT NULL            -- as opened; the columns are newer
    );
INSERT INTO "sessions" VALUES('session-1','lab','session-1','LIVE',0,0,'',NULL,'{"id":"session-1","spooler_id":"session-1","instance_id":"1","principal":"lab","backends":["singlequdit"],"opened_at":"2024-05-06T07:08:09Z","silence_limit":"PT60S"}');
CREATE TABLE tombstones(
        change INTEGER PRIMARY KEY,
        backend TEXT NOT NULL,
        id TEXT NOT NULL,
        at INTEGER NOT NULL
    );
INSERT INTO "tombstones" VALUES(13,'singlequdit','6b055189cbac8b8ae1002ec4',1714979289000000);
CREATE TABLE uploads(
        id TEXT PRIMARY KEY,
        size INTEGER NOT NULL,
        written_at INTEGER NOT NULL,
        committed INTEGER NOT NULL   -- whether a job names it
    );
CREATE TABLE public_keys(kid TEXT PRIMARY KEY, document BLOB NOT NULL);
CREATE INDEX jobs_waiting ON jobs(backend, state, rank) WHERE state IN ('QUEUED', 'HELD');
CREATE INDEX jobs_held ON jobs(session) WHERE session IS NOT NULL;
CREATE INDEX jobs_due ON jobs(due_at) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_by_change ON jobs(change);
CREATE INDEX jobs_by_owner ON jobs(owner);
CREATE INDEX uploads_staged ON uploads(written_at) WHERE NOT committed;
CREATE INDEX sessions_live ON sessions(principal, spooler_id) WHERE state = 'LIVE';
COMMIT;
