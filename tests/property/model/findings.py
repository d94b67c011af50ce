"""For each mutant, by title, a script that finds it out.

Found by random search and made small by ``shrinking``; the rarest were written by hand.
"""

FINDINGS = {
    "broken chain is not a gap": "write write/0/0/6 write/4 deliver/0/0/1 start/0/0/2",
    "broken chain goes unnoticed": "write/3 write/3/4/6",
    "since is not compared": (
        "write deliver write/0/1/6 prove/0/1 apply write/0/1/6 write/4 deliver"
    ),
    "replayed commits apply": "write write deliver/0/0/1 scope start/57 apply late_commit/0/0/1",
    "first sighting is complete": "write/0/4/6",
    "first sighting is no gap": "write/0/0/6 write/0/1/6 write/4 ask start/0/0/2",
    "whole first commit sets no floor": (
        "write/0/0/6 write/0/0/6 write/4 deliver ask start/0/0/2 inject apply"
    ),
    "whole first commit ignores generation": "write/3/0/6 write/3/0/10 late_commit/3/0/1",
    "whole first commit ignores proofs": "write/0/0/6 prove/0/1 apply write/0/0/6 write/4 deliver",
    "whole first commit ignores gaps": "write/3/0/6 write/3/0/9 late_commit/3/0/1",
    "unverifiable commit is no gap": "write/0/0/9 deliver start write/0/0/9",
    "unverifiable commit goes unnoticed": "write write/0/0/10",
    "unverifiable commit raises no generation": "write/3 prove/3 apply start write/3/0/11",
    "loss window raises no generation": "write/0/0/9 deliver start write break/0/0/1",
    "loss window goes unnoticed": "write deliver break write/0/0/6",
    "scope change is no gap": "write write/4/8 deliver/0/0/1 scope start/0/0/1",
    "scope change goes unnoticed": "write deliver scope",
    "scope change is not noted": "write deliver scope",
    "reactivation raises no generation": (
        "write deliver break leave/0/0/1 write return/0/0/1 deliver start/0/0/1"
    ),
    "reactivation goes unnoticed": "write leave/0/0/1 write return/0/0/1",
    "a scope taken back is not compared": "write deliver scope/0/0/4",
    "a loss window leaves the status": "write deliver leave/0/0/1 deliver return/0/0/1 break/0/0/1",
    "a loss window leaves what is parked": "write leave/0/0/1 break/0/0/1 lose_key",
    "a status overtakes what is parked": (
        "lose_key write deliver leave/0/1/1 deliver return/0/0/1 deliver"
    ),
    "an overtaken deletion leaves no doubt": (
        "write false_deletion status_again/0/0/1 write/0/0/6"
    ),
    "nothing is queued": "write/0/0/6",
    "#sync is ignored": "write/3 write/3/0/6 sync_frame/3",
    "#sync is no gap": "write write/0/0/6 sync_frame deliver/0/0/1 start/0/0/1",
    "#sync goes unnoticed": "write write/0/0/6 write/0/0/6 sync_frame/0/0/1",
    "#sync overlooks newer rows": (
        "write deliver write/0/1/6 prove/0/1 apply write/0/1/6 sync_frame deliver"
    ),
    "#sync leaves the floor": (
        "write deliver write/0/1/6 ask start/0/1 write/0/1/6 sync_frame deliver inject apply"
    ),
    "first chunk leaves the chain": "write/0/0/9",
    "first chunk sets no floor": "write deliver ask write start/58 apply scope start/0/0/1",
    "first chunk leaves the repo active": "write write/0/5/6 ask start",
    "first chunk queues nothing": "write/0/4 deliver write/0/1/6 ask start/0/1 inject cancel apply",
    "first chunk does not give a restored repo its root": (
        "write deliver leave/0/2/1 deliver answer apply return/0/1/1 deliver"
    ),
    "floor is not checked": "write deliver ask write start/58 apply scope start/0/0/1",
    "scope of chunks is not checked": "write/11/4 ask/3 start scope",
    "holes are accepted": "ask write/0/4 start/32 drop_chunk apply",
    "missing chunks are overlooked": (
        "scope write/0/4 write/12 deliver/0/0/1 write/4/1/6 ask start/0/1 inject inject "
        "inject drop_chunk/0/0/1 apply/0/0/1"
    ),
    "gap is not checked": "write write/4/8 deliver/0/0/1 scope start/0/0/1",
    "generation is not checked": "write/3 prove/3 apply start write/3/0/11",
    "last chunk does not activate": "write/0/0/6",
    "refused snapshot is not fetched again": "write write deliver/0/0/1 scope start/0/0/1",
    "chunks state no absence": "write/3/4 write/3/5/6",
    "chunks state absence everywhere": "write/0/4 deliver scope start/57",
    "tombstones are cleared beyond the snapshot": "write write ask start/0/0/1 inject prove/0/0/1",
    "proofs ignore the floor": (
        "write deliver write write/4 deliver/0/0/1 ask start/0/1 inject apply prove/0/0/2 apply"
    ),
    "proofs ignore the gap": "write deliver write/0/1/6 write/4 deliver prove/0/0/2 apply",
    "proofs are not noted": "write/3/0/6 prove/3 leave/3/2",
    "tombstones are forgotten": "write/0/0/9 deliver start write",
    "unknown deletes leave no tombstone": "write/0/0/9 deliver start write",
    "older facts win": "write/0/4 write/0/4 prove/4 apply",
    "repeated ops leave the rev": "write write/12/5/6 write/4 deliver/0/0/1 start write/12/5",
    "unwanted ops become rows": "write/4/4 deliver write/8",
    "commits of inactive accounts apply": "write deliver leave/0/0/1 write/0/1 deliver/0/0/1",
    "chunks of inactive accounts apply": (
        "write deliver ask write/0/1/6 start/0/1 inject leave/0/0/1 deliver apply"
    ),
    "proofs of inactive accounts apply": (
        "write deliver write/0/1/6 prove/0/1 leave/0/0/1 deliver apply"
    ),
    "#sync of inactive accounts applies": (
        "write deliver write/0/1/6 leave/0/0/1 sync_frame deliver/0/0/1"
    ),
    "the ratchet is off": "write leave/0/0/1 return/0/0/1 old_account_frame",
    "old answers count": "write leave/0/2/1 deliver/0/0/1 answer false_deletion",
    "deletion is not confirmed": "write deliver false_deletion",
    "deletion sets no floor": (
        "write write/0/1 write/4 deliver/0/0/2 leave/0/2/1 deliver answer apply "
        "return/0/1/1 deliver start/0/0/2 inject apply"
    ),
    "deletion leaves the chain": "write/0/0/9 leave/0/2",
    "deletion leaves the root": (
        "write deliver write/0/1/9 deliver leave/0/2/1 deliver answer apply return/0/1/1 deliver"
    ),
    "deletion begins no incarnation": "write leave/0/2",
    "deletion keeps the rows": "write leave/0/2",
}
