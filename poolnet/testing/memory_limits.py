"""The most that the tables and queues of a node may hold, by the names that `SimNode.memory_items` gives them.

What peers can fill has the limit here that its machine promises. Everything else is a table of links, or of what the
node's own user asked for; it has no name here and stays small, and so does whatever is new and was not thought of. What
is empty between any two events is listed with 0.
"""

from poolnet.limits import (
    CHUNK_SIZE,
    DEFAULT_CACHE_SIZE,
    GRAFT_WINDOW,
    MAX_AUTHORS_LIMITED,
    MAX_CONDUCT_RECORDS,
    MAX_GOSSIP_CACHE,
    MAX_HELD_MESSAGES,
    MAX_IDS_PER_FRAME,
    MAX_IDS_PER_WANT,
    MAX_INTERESTS_PER_LINK,
    MAX_MISSING_PER_LINK,
    MAX_QUEUED_FRAMES,
    MAX_RELAYED_PIECES,
    MAX_REMEMBERED_FETCHES,
    MAX_ROSTER_NODES,
    MAX_RUNS_PER_SOURCE,
    MAX_SEEN_IDS,
    MAX_STATEMENTS,
    MAX_UNANSWERED_WANTS,
    MAX_WANT_WINDOW,
    MAX_WANTED_PER_LINK,
)
from poolnet.protocol.mesh import MAX_LINKS

#: Of what has no name here.
OTHERWISE = 100

#: Links, and a few that others have closed, of which we have not heard.
_LINKS = MAX_LINKS + 4
_FILES = _LINKS * MAX_INTERESTS_PER_LINK
#: Files that nobody asks for any more, of which a route is known (protocol/swarm_relay.py).
_SPARE_ROUTES = 4096
#: Pieces that were promised by one peer and given up (protocol/swarm_requester.py).
_LATE = 256
#: Pieces that a want names for each that it asks for (protocol/swarm_download.py).
_CHOICE = 4
#: Pieces sent so lately that others are not given them: at a gigabit a second, for the longest time that they are.
_SENT_LATELY = _LINKS * MAX_WANT_WINDOW + 5000

MEMORY_LIMITS = {
    "agreement.effects": 0,
    "agreement.fetching.bringers": MAX_REMEMBERED_FETCHES,
    "agreement.fetching.not_before": _LINKS * (MAX_WANTED_PER_LINK + MAX_IDS_PER_FRAME),
    "agreement.fetching.peers": _LINKS,
    "agreement.fetching.peers.listed": MAX_WANTED_PER_LINK + MAX_IDS_PER_FRAME,
    "agreement.fetching.peers.unanswered": MAX_IDS_PER_WANT,
    "agreement.fetching.wanted": _LINKS * (MAX_WANTED_PER_LINK + MAX_IDS_PER_FRAME),
    "agreement.peers": _LINKS,
    "agreement.peers.unserved": MAX_UNANSWERED_WANTS,
    "agreement.steps": 2 * _LINKS + 1,
    "clock.neighbours": _LINKS,
    "conduct.records": MAX_CONDUCT_RECORDS,
    "early": MAX_QUEUED_FRAMES + 1,
    "files.cache": DEFAULT_CACHE_SIZE // CHUNK_SIZE,
    "files.links": _LINKS,
    "files.outgoing": MAX_WANT_WINDOW,
    "files.relayed": MAX_INTERESTS_PER_LINK,
    "files.routes.asked": _FILES,
    "files.routes.doubted": _FILES,
    "files.routes.told": _FILES + MAX_INTERESTS_PER_LINK,
    "files.undone": 0,
    "gossip.cache": MAX_GOSSIP_CACHE,
    "gossip.missing.missing": _LINKS * MAX_MISSING_PER_LINK,
    "gossip.missing.missing.tries": _LINKS,
    "gossip.missing.peers": _LINKS,
    "gossip.missing.peers.asked": GRAFT_WINDOW,
    "gossip.missing.peers.ready": _LINKS * MAX_MISSING_PER_LINK,
    "gossip.missing.timers": 2 * _LINKS * MAX_MISSING_PER_LINK,
    "gossip.peers": _LINKS,
    "gossip.peers.to_announce": MAX_IDS_PER_FRAME,
    "gossip.seen": MAX_SEEN_IDS,
    "held.heap": MAX_HELD_MESSAGES,
    "held.ids": MAX_HELD_MESSAGES,
    "held_back": _LINKS * (MAX_QUEUED_FRAMES + 1),
    "mesh.attempts": MAX_ROSTER_NODES,
    "mesh.links": _LINKS,
    "mesh.roster.places": MAX_ROSTER_NODES,
    "mesh.shunned": MAX_ROSTER_NODES,
    "mesh.wanted": _LINKS,
    "quota.buckets": MAX_AUTHORS_LIMITED,
    "standing.exchanges": _LINKS,
    "standing.exchanges.open": MAX_STATEMENTS,
    "standing.statements": MAX_STATEMENTS,
    "swarm.desk.custody.count_of_peer": _LINKS,
    "swarm.desk.custody.files": MAX_RELAYED_PIECES,
    "swarm.desk.custody.files.waiting": _LINKS,
    "swarm.desk.files": _FILES,
    "swarm.desk.files.askers": _LINKS,
    "swarm.desk.files.told": _LINKS,
    "swarm.desk.routes": _FILES + _SPARE_ROUTES,
    "swarm.effects": 0,
    "swarm.peers": _LINKS,
    "swarm.requester.downloads": MAX_INTERESTS_PER_LINK,
    "swarm.requester.downloads.sources": _LINKS,
    "swarm.requester.links": _LINKS,
    "swarm.requester.links.banned": MAX_INTERESTS_PER_LINK,
    "swarm.requester.links.sources": MAX_INTERESTS_PER_LINK,
    "swarm.requester.links.sources.has": MAX_RUNS_PER_SOURCE,
    "swarm.requester.links.sources.late": _LATE + MAX_WANT_WINDOW,
    "swarm.requester.links.sources.overtook": _CHOICE * MAX_WANT_WINDOW,
    "swarm.requester.links.sources.promised": MAX_WANT_WINDOW,
    "swarm.requester.links.sources.relayed": MAX_WANT_WINDOW,
    "swarm.server.expiring": _SENT_LATELY,
    "swarm.server.files.recent": _SENT_LATELY,
    "swarm.server.interested": _FILES,
    "swarm.server.receivers": _LINKS,
    "swarm.server.receivers.interests": MAX_INTERESTS_PER_LINK,
    "swarm.server.receivers.queued": MAX_WANT_WINDOW,
    "unsaved": 2 * MAX_QUEUED_FRAMES,
}


def limit_of(name: str) -> int:
    """Return how much a table of that name may hold."""
    return MEMORY_LIMITS.get(name, OTHERWISE)
