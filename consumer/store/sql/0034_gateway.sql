-- What the gateways have carried out with each service-auth token: the only table that they write.
-- A row without an answer is being carried out by ``owner``; once ``owned_until`` has passed, whoever
-- gets the same request carries it out again, as the same operation.
CREATE TABLE gateway_requests (
    issuer      bytea       NOT NULL,  -- SHA-256 of the DID
    token       bytea       NOT NULL,  -- SHA-256 of issuer and jti
    request     bytea       NOT NULL,  -- SHA-256 of method and body; empty: the token is for one use
    admin       boolean     NOT NULL,
    expires_at  timestamptz NOT NULL,  -- of the token
    owner       uuid        NOT NULL,
    owned_until timestamptz NOT NULL,
    answer      bytea,                 -- JSON
    PRIMARY KEY (issuer, token, request)
);
CREATE INDEX gateway_requests_expired ON gateway_requests (expires_at);

-- What people asked for, newest first: few rows among those that the system began itself.
CREATE INDEX operations_asked_for ON operations (requested_at, id)
    WHERE NOT automatic AND parent IS NULL;
