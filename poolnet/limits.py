"""Every bound of poolnet, in one place, each with its reason.

Sizes are bytes, times are seconds, unless the name says otherwise. A limit that a peer can run into is part of the
protocol (see docs/protocol.md); raising one on a single device gains nothing, the other side keeps its own.
"""

KIB = 1024
MIB = 1024 * KIB

# --- frames on the control stream -------------------------------------------------------------------------------

#: Largest control frame. Decoding one allocates a small multiple of this, whatever it declares inside.
MAX_FRAME_SIZE = 64 * KIB
#: A frame is an array of scalars, lists and at most lists of pairs; nothing nests deeper.
MAX_CBOR_DEPTH = 6
#: Ids in one list: 1 000 × 34 bytes leave room in a frame for the rest.
MAX_IDS_PER_FRAME = 1000
#: Ranges in one frame: two integers of at most 9 bytes each; more ranges are told in the next frame.
MAX_RANGES_PER_FRAME = 1000
#: Control bytes that the other side has not yet acknowledged as consumed. Also the most that wait to be sent.
MAX_UNACKNOWLEDGED_CONTROL = 1 * MIB
#: What waits for something slow, each by itself: frames of nodes for a pool that a server is loading, gossip of a link
#: until its statements are taken, and messages of a pool for the database. What waits on a link to be taken is not
#: counted: the credit above bounds it.
MAX_QUEUED_FRAMES = 256
#: What a peer may make us hold before it has proven its device key: memory and time.
MAX_PRE_AUTH_SIZE = 64 * KIB
PRE_AUTH_TIMEOUT_S = 5.0
#: ... and how many datagrams it may use for that; each costs us decrypting.
MAX_PRE_AUTH_DATAGRAMS = 256
#: A free-text reason in a frame: enough for one sentence.
MAX_REASON_CHARS = 200

# --- links ------------------------------------------------------------------------------------------------------

RING_COUNT = 3
#: Predecessor and successor in each ring.
MAX_RING_LINKS = 2 * RING_COUNT
#: Direct links on top of the rings, for one large transfer or while rosters differ.
MAX_TEMPORARY_LINKS = 4
#: How long a link to a member drawn at random is kept before another is drawn; up to a half less. Who drew only
#: liars for neighbours is not among them for longer than a few of these.
ACQUAINTANCE_S = 120.0
#: How soon it is drawn first, and again if nobody was reached there; up to twice that.
ACQUAINTANCE_DELAY_S = 5.0
#: Where all places for links are taken, so often one is given up for a newcomer: nobody keeps all of them for ever.
GUEST_STAY_S = 60.0
#: Up to this many nodes a pool is a full mesh: everyone is a neighbour anyway.
FULL_MESH_SIZE = MAX_RING_LINKS + 1
#: A link that brings nothing for this long is dead. Pings go out at a third of it, so two may be lost.
IDLE_TIMEOUT_S = 9.0
PING_INTERVAL_S = 3.0
#: After these, half a minute, the other side's program is given up although its QUIC goes on: it stands still, or it
#: began a frame that it does not finish. Before a slow link would have let through all control bytes it would be wrong.
MAX_UNANSWERED_PINGS = 10
#: Giving up on a dial: probing and both handshakes over a bad path stay well below.
DIAL_TIMEOUT_S = 8.0
#: How long a link that closes waits for the other side to take note; then it is closed all the same.
CLOSE_TIMEOUT_S = 1.0
#: Links that are proven and that nobody has accepted yet; further ones are told to come back.
MAX_UNACCEPTED_LINKS = 64
#: Retries of a failed dial: jittered exponential back-off between these.
MIN_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
#: Of two nodes that become neighbours the one that has just come (else that with the smaller id) dials at once, the
#: other gives it this long.
GLARE_WAIT_S = 3.0
#: So many failed dials in a row and a peer counts as gone: the next node on that ring takes its place.
GONE_AFTER_DIALS = 2
#: How long a link that is no longer needed is kept: rosters of two nodes differ for moments.
LINK_GRACE_S = 10.0
#: Candidate addresses of one node: a few interfaces, two families, the observed one.
MAX_CANDIDATES = 8
#: Body of one signal: MAX_CANDIDATES addresses, a key and a session id are below 1 KiB.
MAX_SIGNAL_SIZE = 2 * KIB
#: Connections whose peer has not proven itself, above which new ones must first return a Retry token.
RETRY_ABOVE_HALF_OPEN = 32
#: ... and above which one has to go before another comes: 10 MiB. A proof takes a few round trips, so this is enough
#: for several hundred a second, all that a processor can check.
MAX_HALF_OPEN = 128
#: ... of which one network (an IPv4 address, an IPv6 /64) has at most so many: a class room behind one address. Above
#: RETRY_ABOVE_HALF_OPEN, or forged senders could use up the share of somebody else.
MAX_HALF_OPEN_PER_NETWORK = 64
#: ... and none has to go before it had this: an honest one is through by then.
HALF_OPEN_GRACE_S = 1.0
#: Besides, MAX_HALF_OPEN places are kept for members whose path is being probed, and for networks that had a link for
#: so long (longer than a sync server keeps one that is not attached), a week after it, so many networks: a megabyte.
KNOWN_AFTER_S = 60.0
KNOWN_FOR_S = 7 * 24 * 3600.0
MAX_KNOWN_NETWORKS = 4096

# --- lanes: the chunks of a link over TCP, where that is possible -------------------------------------------------

#: Connecting and proving, all addresses of one side together; then the other side's addresses are tried.
LANE_DIAL_TIMEOUT_S = 2.0
#: How long an offered lane is waited for: the other side's dial, and its answer over a slow link.
LANE_OFFER_TIMEOUT_S = 10.0
#: A pair that cannot have a lane, or lost it, tries again after this; networks change, firewalls seldom do.
LANE_RETRY_S = 60.0
#: A lane that brings nothing for this long, while something is unconfirmed, is given up.
LANE_STALL_S = 5.0
#: What arrived on a lane is confirmed after this, if nothing else confirms it before; far below LANE_STALL_S.
LANE_REPORT_S = 0.5
#: How long the other side may take to say what arrived on a lane that ended; without that nothing can go on.
LANE_END_TIMEOUT_S = 10.0
#: Bytes written to a lane before another takes its place: one key is good for 2^24.5 records (RFC 8446, section 5.5).
LANE_LIFETIME_SIZE = 256 * 1024 * MIB
#: Bytes read from a lane before other tasks run: a quarter of a millisecond.
LANE_TURN_SIZE = 256 * KIB
#: What a stranger may have us hold before it has shown its token, and connections of strangers: all, of one address.
MAX_LANE_PRE_AUTH_SIZE = 4 * KIB
MAX_HALF_OPEN_LANES = 64
MAX_HALF_OPEN_LANES_PER_ADDRESS = 8

# --- datagrams --------------------------------------------------------------------------------------------------

#: What every path carries (RFC 9000 section 14) and what a path is assumed to carry until probed.
MIN_DATAGRAM_SIZE = 1200
#: Sizes that paths have in practice: minimum, Ethernet, jumbo frames, loopback (the largest that aioquic can send,
#: whose two-byte length fields end at 16383).
PROBE_SIZES = (1200, 1452, 8952, 16370)
MAX_DATAGRAM_SIZE = PROBE_SIZES[-1]
#: A probe that is not answered is repeated after this ...
PROBE_INTERVAL_S = 0.1
#: ... and once an address has answered, larger sizes and better addresses get this long (or three round trips).
PROBE_SETTLE_S = 0.15
#: How long the other side's probes are answered after our own search has ended.
PROBE_LINGER_S = 10.0
#: Path searches at once, lingering ones included: all links of a few pools at the same moment.
MAX_PROBE_SESSIONS = 128
#: Datagrams taken from the socket before other tasks run; keeps the latency of control traffic under load.
MAX_DATAGRAMS_PER_TURN = 64
#: What a proven peer may have sent beyond what arrived in order, all streams together; also what we hold at most while
#: something is missing. All chunks in transit and all unacknowledged control bytes, 5 MiB, fit with room to spare.
QUIC_CONNECTION_WINDOW = 8 * MIB
#: What a client of a sync server, which may be anybody, may have sent beyond what the server has dealt with, arrived in
#: order or not: so much does it make the server hold. And its largest frame, which three quarters of that have room for
#: (a window is moved by quarters): a statement of the largest size, or a list of ids.
QUIC_CLIENT_WINDOW = 64 * KIB
MAX_CLIENT_FRAME_SIZE = 44 * KIB
#: Of one stream, for its whole life if it is a chunk's: a chunk and its header fit.
QUIC_STREAM_WINDOW = 320 * KIB
#: Of a connection whose peer is not proven yet; it does not move until then.
PRE_AUTH_WINDOW = 64 * KIB
#: Chunk streams of one side that are not finished: those in transit, and as many that were stopped and not yet let go.
MAX_CHUNK_STREAMS = 32
#: Pieces of one stream beyond a gap; a chunk in the smallest datagrams has 220, of which every second may be lost.
MAX_FRAGMENTS = 256
#: Bytes of a handshake under each kind of keys, in order or not: a whole handshake of ours has 2 KiB.
MAX_HANDSHAKE_SIZE = 16 * KIB
#: Packets sent and not acknowledged; what may be in transit is below 6 000, in the smallest datagrams.
MAX_UNACKNOWLEDGED_PACKETS = 16_384

# --- messages ---------------------------------------------------------------------------------------------------

MAX_TEXT_CHARS = 1000
#: A display name, a pool name: fits a line of a terminal.
MAX_NAME_CHARS = 64
#: A file name: what common file systems take, in UTF-8 bytes.
MAX_FILE_NAME_BYTES = 255
MAX_KIND_CHARS = 32
#: Data of an `app` message: a document of a program; larger things are files.
MAX_APP_SIZE = 16 * KIB
#: ``program.kind`` of such a message.
MAX_APP_NAME_CHARS = 64
#: Body of any message; an `app` body is the largest, with its name of at most four bytes a character.
MAX_BODY_SIZE = MAX_APP_SIZE + 512
#: Devices that one text calls by name.
MAX_MENTIONS = 32
#: Encoded message: body, and room for its fields, keys and signature.
MAX_MESSAGE_SIZE = MAX_BODY_SIZE + 1 * KIB
#: Message ids remembered to tell a duplicate without decoding it.
MAX_SEEN_IDS = 100_000
#: Messages that are being published at once, and wait for the database: with them, a link that is half of what it may
#: be behind is not all of it behind.
MAX_PUBLISHING = 16
#: How long whoever publishes waits for a link to catch up: from half of what it may be behind to a quarter, of which it
#: hears a quarter at a time, at 64 KiB a second.
PUBLISH_PATIENCE_S = 8.0
#: Messages kept in memory to answer a graft; older ones come from the database.
MAX_GOSSIP_CACHE = 1000
#: Announcements wait for others to share their frame, a random time between these: they only mend the tree, and cost a
#: packet each. Of the two sides of a lazy link usually only one announces what both have.
MIN_GOSSIP_FLUSH_S = 0.2
MAX_GOSSIP_FLUSH_S = 0.5
#: ... on links that will not stay: whoever hears a message there first would not have heard it for long otherwise.
GUEST_FLUSH_S = 2.0
#: How long an announced message may take to arrive by itself before it is asked for, and how long an answer may take
#: before another announcer is asked.
GRAFT_DELAY_S = 0.3
GRAFT_RETRY_S = 1.0
#: Times that each announcer of a message is asked for it.
GRAFT_TRIES = 3
#: Messages asked for and not yet here, per link: the answers, 32 × 17 KiB, stay below MAX_UNACKNOWLEDGED_CONTROL.
GRAFT_WINDOW = 32
#: Announced messages that we lack, for each link that was the first to announce them, at about 400 bytes; more are
#: ignored.
MAX_MISSING_PER_LINK = 5000
#: What is taken of one author over gossip, in messages of up to a KiB: at once, and a second. A device takes some 400
#: texts a second, so four who send without end leave most of it to the others; a program may say what it knows all at
#: once. What is beyond comes by comparing histories, begun so long after with whom it came from.
AUTHOR_BURST = 3000.0
AUTHOR_RATE = 100.0
DEFERRED_COMPARE_S = 10.0
#: What is stamped so long ago was said before, or by a wrong clock; of all that together only so much is taken over
#: gossip: at once, and a second. A message is under way for seconds, and whoever says old ones again is no author.
OLD_AFTER_S = 600.0
OLD_BURST = 1000.0
OLD_RATE = 10.0
#: Authors of whom that is remembered, at about 200 bytes: all who speak in half a minute, or some of those who flood
#: begin anew.
MAX_AUTHORS_LIMITED = 4096
#: A longer silence in the history begins a new session.
SESSION_GAP_S = 1800.0
#: How often a device looks whether it keeps messages longer than it is set to.
EXPIRY_INTERVAL_S = 3600.0
#: How far a message may be ahead of our corrected time before it is held back.
MAX_CLOCK_AHEAD_S = 60.0
#: A system clock that differs by more than this from the time that a device counts on was set by somebody.
CLOCK_TOLERANCE_S = 1.0
#: How wrong a system clock must be before its user is told: nothing here suffers from less.
CLOCK_WARNING_S = 30.0
#: How often the time is compared with that of the others, and with the system clock.
CLOCK_CHECK_INTERVAL_S = 3.0
#: How long the first message after a pool was entered waits for somebody who can say what time it is.
CLOCK_WAIT_S = 2.0
#: How far a clock is set forward on the word of others that are no majority, and without a server: two users whose
#: clocks are a day off, each its way, still understand each other.
MAX_UNCONFIRMED_STEP_S = 3 * 24 * 3600
#: Messages held back at once because of their clocks; more are dropped and counted.
MAX_HELD_MESSAGES = 1000
#: How long a node that just came waits for its name before it is announced without.
NAME_GRACE_S = 2.0
#: How long a name stands before it is told: a later one may come with the same comparison of histories.
NAME_SETTLE_S = 0.3
#: Texts of one nameless author that wait for its name; with more they are shown without.
MAX_HELD_TEXTS = 100

# --- histories that agree ---------------------------------------------------------------------------------------

#: How often a node compares its history with a neighbour chosen at random; a new link is compared at once.
RECONCILE_INTERVAL_S = 60.0
#: ... and after something was fetched, which the other neighbours may lack as well: time for more of it to come.
RECONCILE_NEWS_S = 0.1
#: A regular comparison leaves out the last moments, which gossip is still bringing.
RECONCILE_LAG_S = 5.0
#: A comparison or an answer that gets no further for this long is given up, and tried again after that.
RECONCILE_TIMEOUT_S = 10.0
RECONCILE_RETRY_S = 15.0
#: A comparison in which the neighbour says nothing for so long, or which takes so long, does not hold up those with
#: others any more: five round trips half round the world take a second. What was asked of who says nothing for so long
#: is asked of another as well.
RECONCILE_PATIENCE_S = 1.5
RECONCILE_ALONE_S = 5.0
#: A comparison that takes longer is broken off, so that others have their turn, and taken up again after them.
RECONCILE_TURN_S = 30.0
#: Parts of a range whose fingerprints differ: more of them are fewer round trips and larger answers.
RECONCILE_BRANCHING = 16
#: Ranges of so few messages are listed; another split would cost as much as their ids.
RECONCILE_LIST_BELOW = 16
#: Messages that are compared with a list one by one; in a range with more of them parts are compared first.
MAX_COMPARED_IDS = 256
#: Claims of one answer, in bytes, and how many they may be: each costs the other side a look into its database.
MAX_COMPARE_SIZE = 16 * KIB
MAX_CLAIMS_PER_FRAME = 1000
#: Ids in one request for messages, and requests on one link that are not answered.
MAX_IDS_PER_WANT = 128
MAX_UNANSWERED_WANTS = 2
#: What is lacking may be on its way by gossip: so long it may take before it is asked for.
WANT_DELAY_S = 0.25
#: Messages that one neighbour has and we lack; more of the comparison waits until some of them are here.
MAX_WANTED_PER_LINK = 2000
#: Fetched messages that are not stored yet; of more, other neighbours do not hear before the next regular comparison.
MAX_REMEMBERED_FETCHES = 10_000
#: Messages older than some message that are asked for at once.
MAX_OLDER_MESSAGES = 1000
#: What is kept in agreement without being asked for: so much of the past, and at least so many messages.
AUTOMATIC_WINDOW_S = 7 * 24 * 3600
RECENT_MESSAGES = 100

# --- what peers did ---------------------------------------------------------------------------------------------

#: Peers whose conduct is remembered, at about 400 bytes; far more than there are links at a time.
MAX_CONDUCT_RECORDS = 1000
#: What a peer did weighs half after this time, ...
CONDUCT_HALF_LIFE_S = 600.0
#: ... and is forgotten this long after the last of it.
CONDUCT_MEMORY_S = 3600.0
#: Faults, by their weight now, that a peer may have before it is shunned: a fault of a program shows oftener.
FAULTS_PER_SHUNNING = 3
#: How long a peer is shunned the first time, and at most; each time twice as long as the last.
MIN_SHUN_S = 60.0
MAX_SHUN_S = 3600.0
#: How often clocks of neighbours are looked at.
CONDUCT_CHECK_INTERVAL_S = 60.0

# --- statements -------------------------------------------------------------------------------------------------

MAX_STATEMENT_SIZE = 40 * KIB
#: Statements of one pool: members, invites and roles of a few thousand devices.
MAX_STATEMENTS = 20_000
#: ... and their bytes together: a statement has a few hundred, only removals are longer.
MAX_STATEMENTS_SIZE = 32 * MIB
#: Room that only admins fill, so that whoever fills a pool can still be removed: for twenty removals a day over seven
#: weeks, or 60 that list all that they keep. Then as much again that only the founder fills.
RESERVED_STATEMENTS = 1000
RESERVED_STATEMENTS_SIZE = 2 * MIB
#: Joins and invites that count of a member that an admin let in, and of all who came in by it: it may bring a class or
#: a firm, and needs nine accomplices to fill a pool.
MAX_BRANCH_STATEMENTS = 2000
#: A statement of a user about its devices, as a part of its Join.
MAX_USER_STATEMENT_SIZE = 1 * KIB
#: Statements of a removed member that a removal can let stand (32 bytes each in one statement).
MAX_KEPT_STATEMENTS = 1000
DEFAULT_INVITE_LIFETIME_S = 7 * 24 * 3600
MAX_SERVERS_PER_INVITE = 8
#: Invite link: eight servers with the longest host names, the pool id and the secret.
MAX_INVITE_LINK_CHARS = 4096

# --- files ------------------------------------------------------------------------------------------------------

CHUNK_SIZE = 256 * KIB
#: Hashes in one node of the tree: 1024 × 32 bytes = 32 KiB, so that a node travels like a small chunk.
TREE_FAN_OUT = 1024
#: Largest file: 2^20 tree nodes' worth of chunks, 256 TiB; keeps piece indices far below 2^32.
MAX_FILE_SIZE = 2**30 * CHUNK_SIZE
#: Chunks asked for and not yet here, per link: adaptive between these.
MIN_WANT_WINDOW = 2
MAX_WANT_WINDOW = 64
#: Chunks sent and not yet consumed by the other side's application, per link: 4 MiB a direction, enough for 1 Gbit/s
#: at 30 ms. Half of it made a link slower on a busy machine, where each side waits for the processor.
MAX_CHUNKS_IN_TRANSIT = 16
#: Chunk bytes written to QUIC and not yet sent, above which further chunks wait: keeps few streams open. With small
#: datagrams it is less: what one turn sends.
MAX_UNSENT_CHUNK_BYTES = 2 * CHUNK_SIZE
#: Chunks received and not yet verified and written, per link.
MAX_QUEUED_CHUNKS = 8
#: A promise that brings nothing for this long is dropped.
PROMISE_TIMEOUT_S = 5.0
#: ... and this much longer each time that it happens again, up to here: a slow link needs it for one chunk.
MAX_PROMISE_PATIENCE_S = 60.0
#: Where the window of a link begins, before its rate is known.
INITIAL_WANT_WINDOW = 8
#: Ranges in one want: enough to choose from, cheap to read.
MAX_RANGES_PER_WANT = 256
#: Runs of one file remembered of one peer; what would make it more is not remembered, and not asked there.
MAX_RUNS_PER_SOURCE = 20_000
#: ... and of all files of that peer together, at some 300 bytes: five files of which it has every other piece.
MAX_RUNS_PER_LINK = 100_000
#: New pieces are announced together, at most this often.
HAVE_INTERVAL_S = 0.05
#: When no more than so many pieces are missing, those late are asked of a second holder.
END_GAME_PIECES = 8
#: Files that one link may be interested in at once; a folder is one offer.
MAX_INTERESTS_PER_LINK = 1000
#: Live offers in one pool that a device keeps.
MAX_OFFERS = 10_000
#: Links between who wants a file and who has it that a want travels at most.
MAX_HOPS = 16
#: Relayed pieces that were promised and are not here yet, over all links and files; 64 MiB of the cache.
MAX_RELAYED_PIECES = 256
#: Verified chunks held for others on disk, unless the user says otherwise.
DEFAULT_CACHE_SIZE = 256 * MIB
#: ... and at most: the index of 16 GiB takes about 30 MiB of memory.
MAX_CACHE_SLOTS = 65_536
#: Downloads that run at once, unless the user says otherwise; the others wait their turn.
DEFAULT_CONCURRENT_DOWNLOADS = 5
#: Finished, failed and cancelled downloads that are remembered.
MAX_DOWNLOAD_HISTORY = 1000
#: Files in a folder that is offered, bytes of the list of them, and bytes of one path in it.
MAX_FOLDER_FILES = 1_000_000
MAX_FOLDER_LIST_SIZE = 256 * MIB
MAX_FOLDER_PATH_BYTES = 1024
MAX_FOLDER_DEPTH = 64
#: Pictures up to this size are fetched by everyone at once.
MAX_MEDIA_SIZE = 25 * MIB
#: A tiny JPEG that travels in the message.
MAX_PREVIEW_SIZE = 8 * KIB
#: Pictures of a pool that are kept, the oldest go first.
MEDIA_CACHE_SIZE = 128 * MIB
#: Pieces of a stream: at most so many bytes of it each, and sent after this time even if there is less.
MAX_STREAM_PIECE_SIZE = CHUNK_SIZE - 512
STREAM_FLUSH_S = 0.2

# --- services ---------------------------------------------------------------------------------------------------

#: Events that one subscriber may lag behind before further ones are dropped and counted.
MAX_QUEUED_EVENTS = 1024
#: Tree nodes of files kept in memory once verified: 8 MiB for all files; one covers 256 MiB of a file.
MAX_CACHED_TREE_NODES = 256
#: How often offered files are looked at, so that one that was edited or removed is withdrawn before anybody asks.
SOURCE_CHECK_INTERVAL_S = 10.0
#: Threads that hash, read and write files at once; more only compete for the same disk and memory.
DISK_THREADS = 4
DEFAULT_SERVER_PORT = 7665
#: How long a restarted server keeps the places of nodes that have not come back.
REATTACH_GRACE_S = 30.0
#: How long a node keeps its places after its link to the server broke: time to dial again.
RELINK_GRACE_S = 5.0
#: From a link to the server to being attached: a large pool's statements both ways over a slow line.
ATTACH_TIMEOUT_S = 20.0
#: Nodes in one roster; each of them is admitted by a statement of its own.
MAX_ROSTER_NODES = MAX_STATEMENTS
#: How long a pool that nobody is attached to stays in a server's memory, to spare loading it again and again.
UNLOAD_AFTER_S = 60.0
#: Statements that a client shows before it is judged: Genesis, Join, Invite and the invites above it.
MAX_SHOWN_STATEMENTS = 64
MAX_SHOWN_SIZE = 128 * KIB
#: Statements of a pool that is new to the server, all together: MAX_STATEMENTS of the usual 250 bytes.
MAX_FOUNDING_SIZE = 6 * MIB
#: Statements that a server asks one client for at a time, so that answers stay below the unacknowledged limit.
MAX_ASKED_STATEMENTS = 500
#: Frames that wait for one client of a server; one more and it is too slow.
MAX_CLIENT_BACKLOG = 2048
#: ... and how long it may take nothing of them: a frame of the largest size over a modem.
CLIENT_STALL_S = 30.0
#: Reports of unreachable neighbours after which a node gets other places ...
REPORTS_PER_REDRAW = 2
#: ... and how often: burst, and refill a second.
REDRAW_BURST = 2
REDRAW_RATE = 1 / 60
#: Words of neighbours against a node: how long one counts with the server, ...
COMPLAINT_LIFETIME_S = 600.0
#: ... how many must agree, being more than half of its neighbours: two alone could be one person's devices, ...
MIN_COMPLAINTS = 3
#: ... how often it is then given other neighbours before it is out, how long that is remembered, ...
STRIKES_PER_REMOVAL = 3
STRIKE_LIFETIME_S = 3600.0
#: ... how long after one time the next can be: the first shunning has ended, and other neighbours have met it, ...
STRIKE_INTERVAL_S = 60.0
#: ... how long it is out, ...
REMOVAL_S = 600.0
#: ... and how often one node is heard: all its neighbours at once, and one a minute. Burst, and refill a second.
COMPLAINT_BURST = 6
COMPLAINT_RATE = 1 / 60
#: Connections of one address to a sync server; a household or a class room behind one NAT.
MAX_CONNECTIONS_PER_ADDRESS = 64
#: Links to a sync server that are not attached, above which one has to go before another comes; of one network at most
#: so many; and how long none has to go. Each shows up to MAX_SHOWN_SIZE, all together 32 MiB.
MAX_UNATTACHED_CLIENTS = 256
MAX_UNATTACHED_PER_NETWORK = 64
UNATTACHED_GRACE_S = 5.0
#: ... and the same of those that bring a pool that is new to the server, MAX_FOUNDING_SIZE each.
MAX_FOUNDING_CLIENTS = 16
MAX_FOUNDING_PER_NETWORK = 4
#: Attach attempts of one address: burst, and refill a second.
ATTACH_BURST = 40
ATTACH_RATE = 2.0
#: New pools of one address: burst, and refill a second (six an hour).
CREATE_BURST = 20
CREATE_RATE = 6 / 3600
#: Times that an attached device asks for the whole roster again, over a megabyte if it is large: burst, and refill a
#: second. It does so after a gap, which an honest server does not leave.
ROSTER_BURST = 5
ROSTER_RATE = 1 / 10
#: Signals of one device: a join signals to six neighbours, a few times over.
SIGNAL_BURST = 100
SIGNAL_RATE = 10.0
#: Progress events a second and file.
MAX_PROGRESS_RATE = 10.0

# --- views ------------------------------------------------------------------------------------------------------

#: Messages that a view reads from the database at once: app messages of 16 KiB make it 8 MiB.
MAX_READ_AT_ONCE = 500
#: Characters of a message id that mean one: five bits each.
MIN_ID_PREFIX_CHARS = 4
#: Pages that a view of the history holds: that on the screen, and one to each side.
MAX_HISTORY_PAGES = 3
#: Entries that a view of the history has in common with the live feed before it may be left for that: something on the
#: screen stays where it is.
MIN_FEED_OVERLAP = 5
#: Messages that a view hears of while it reads a page that they may belong to; with more it reads again.
MAX_HEARD_WHILE_READING = 1000
#: Retracted messages that a view remembers, so that none comes back by an event that was late.
MAX_REMEMBERED_RETRACTIONS = 1000
#: Names in each list of a notice; of the others only the number is told.
MAX_NAMES_IN_NOTICE = 8
#: Devices whose comings and goings a notice keeps apart; beyond, one that came and left counts twice.
MAX_NODES_IN_NOTICE = 256
