"""One account of the local network: created, writing records, deactivated, deleted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random
from typing import Any, Self

from demo import records
from demo.local_network import Endpoints
from demo.records import Record
from demo.xrpc import Xrpc

_CREATE = "com.atproto.repo.applyWrites#create"
_UPDATE = "com.atproto.repo.applyWrites#update"
_DELETE = "com.atproto.repo.applyWrites#delete"
_PAPER = b"%PDF-1.7 a very short paper\n"


@dataclass(frozen=True, slots=True)
class Written:
    """A record of ours that exists, as far as we know."""

    uri: str
    cid: str

    @property
    def collection(self) -> str:
        return self.uri.split("/")[3]

    @property
    def rkey(self) -> str:
        return self.uri.split("/")[4]

    @property
    def reference(self) -> Record:
        return {"uri": self.uri, "cid": self.cid}


class Author:
    """An account and what it has written.  ``busy`` is held during every call about it.

    Account changes and writes exclude each other, so that a refusal is always a surprise.
    """

    def __init__(self, xrpc: Xrpc, did: str, handle: str, random: Random) -> None:
        self.did = did
        self.handle = handle
        self.active = True
        self.written: list[Written] = []
        self.busy = asyncio.Lock()
        self._xrpc = xrpc
        self._random = random
        self._blob: Record = {}

    @classmethod
    async def sign_up(cls, endpoints: Endpoints, handle: str, random: Random) -> Self:
        """Create the account on the PDS, upload its paper and submit it.

        That first submission stays: the PDS forgets a blob that no record refers to.
        """
        xrpc = Xrpc(endpoints.pds)
        body = {"handle": handle, "email": f"{handle}@example.com", "password": "correct horse"}
        try:
            session = await xrpc.procedure("com.atproto.server.createAccount", body)
            xrpc.authorization = f"Bearer {session['accessJwt']}"
            author = cls(xrpc, session["did"], handle, random)
            await author._submit_paper()
        except BaseException:
            await xrpc.close()
            raise
        return author

    async def close(self) -> None:
        """Release the connections."""
        await self._xrpc.close()

    async def write(self, subject: Written | None) -> int:
        """Do one random thing: create, update or delete records; return how many ops it took.

        ``subject`` is another author's record to review or vote on.
        """
        async with self.busy:
            if not self.active:
                return 0
            choice = self._random.random()
            if choice < 0.15:
                return await self._apply(subject)
            if choice < 0.30 and self.written:
                return await self._update(self._random.choice(self.written))
            if choice < 0.45 and self.written:
                return await self._delete(self._random.choice(self.written))
            return await self._create(subject)

    async def change_handle(self, handle: str) -> None:
        """Take another handle; the network announces it with ``#identity``."""
        async with self.busy:
            body = {"handle": handle}
            await self._xrpc.procedure("com.atproto.identity.updateHandle", body)
            self.handle = handle

    async def deactivate(self) -> None:
        """Deactivate the account: its repository is no longer served."""
        async with self.busy:
            await self._xrpc.procedure("com.atproto.server.deactivateAccount", {})
            self.active = False

    async def activate(self) -> None:
        """Activate the account again."""
        async with self.busy:
            await self._xrpc.procedure("com.atproto.server.activateAccount")
            self.active = True

    async def delete_account(self, administrator: Xrpc) -> None:
        """Delete the account and its repository for good."""
        async with self.busy:
            body = {"did": self.did}
            await administrator.procedure("com.atproto.admin.deleteAccount", body)
            self.active = False
            self.written.clear()

    async def drift(self) -> None:
        """Create two records, revise one and delete one."""
        async with self.busy:
            await self._create(None)
            await self._create(None)
            await self._update(self.written[0])
            await self._delete(self.written[1])

    async def revise_newest(self) -> Written:
        """Change the newest submission, and return it."""
        async with self.busy:
            newest = self.written.index(await self._newest())
            await self._update(self.written[newest])
            return self.written[newest]

    async def delete_newest(self) -> Written:
        """Delete the newest submission, and return what it was."""
        async with self.busy:
            newest = await self._newest()
            await self._delete(newest)
            return newest

    async def token(self, audience: str, method: str) -> str:
        """Return a token, signed by the PDS, for one call of ``method`` at ``audience``."""
        answer = await self._xrpc.query(
            "com.atproto.server.getServiceAuth", aud=audience, lxm=method
        )
        return str(answer["token"])

    async def call(self, service: str, method: str, body: dict[str, Any]) -> Any:
        """Call a procedure of ``service``, a DID with a fragment, by way of the PDS."""
        return await self._xrpc.procedure(method, body, service)

    async def _newest(self) -> Written:
        """Return the newest submission; without one, write it."""
        for each in reversed(self.written):
            if each.collection == records.SUBMISSION:
                return each
        await self._create(None)
        return self.written[-1]

    async def _submit_paper(self) -> None:
        paper = _PAPER + self._random.randbytes(64)
        uploaded = await self._xrpc.upload("com.atproto.repo.uploadBlob", paper, "application/pdf")
        self._blob = uploaded["blob"]
        record = records.submission(self._random, self._blob)
        await self._post(records.SUBMISSION, record)

    async def _post(self, collection: str, record: Record) -> Written:
        body = {"repo": self.did, "collection": collection, "record": record, "validate": False}
        answer = await self._xrpc.procedure("com.atproto.repo.createRecord", body)
        return Written(answer["uri"], answer["cid"])

    def _invent(self, subject: Written | None) -> tuple[str, Record]:
        names, weights = zip(*records.WEIGHTS.items(), strict=True)
        collection = self._random.choices(names, weights)[0]
        if collection == records.SUBMISSION or subject is None:
            return records.SUBMISSION, records.submission(self._random, self._blob)
        return collection, records.ABOUT[collection](self._random, subject.reference)

    async def _create(self, subject: Written | None) -> int:
        self.written.append(await self._post(*self._invent(subject)))
        return 1

    async def _update(self, old: Written) -> int:
        record = self._again(old.collection)
        place = {"repo": self.did, "collection": old.collection, "rkey": old.rkey}
        body = {**place, "record": record, "validate": False}
        answer = await self._xrpc.procedure("com.atproto.repo.putRecord", body)
        self.written[self.written.index(old)] = Written(answer["uri"], answer["cid"])
        return 1

    async def _delete(self, old: Written) -> int:
        body = {"repo": self.did, "collection": old.collection, "rkey": old.rkey}
        await self._xrpc.procedure("com.atproto.repo.deleteRecord", body)
        self.written.remove(old)
        return 1

    async def _apply(self, subject: Written | None) -> int:
        """Several writes in one commit: creates, and an update and a delete of other records."""
        writes: list[dict[str, Any]] = []
        for _ in range(self._random.randint(2, 5)):
            collection, record = self._invent(subject)
            writes.append({"$type": _CREATE, "collection": collection, "value": record})
        old = self._random.sample(self.written, k=min(2, len(self.written)))
        if len(old) == 2:
            place = {"collection": old[0].collection, "rkey": old[0].rkey}
            writes.append({"$type": _UPDATE, **place, "value": self._again(old[0].collection)})
            place = {"collection": old[1].collection, "rkey": old[1].rkey}
            writes.append({"$type": _DELETE, **place})
        body = {"repo": self.did, "writes": writes, "validate": False}
        answer = await self._xrpc.procedure("com.atproto.repo.applyWrites", body)
        gone = old if len(old) == 2 else []
        new = [Written(each["uri"], each["cid"]) for each in answer["results"] if "uri" in each]
        self.written = [each for each in self.written if each not in gone] + new
        return len(writes)

    def _again(self, collection: str) -> Record:
        if collection == records.SUBMISSION:
            return records.submission(self._random, self._blob)
        ourselves = {"uri": f"at://{self.did}", "cid": ""}
        return records.ABOUT[collection](self._random, ourselves)
