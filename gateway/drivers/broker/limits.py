"""Every bound of the broker in one place, with its arithmetic. No task of its own."""

from __future__ import annotations

import msgspec

from gateway.core.instants import DAY_MS

# In flight means: received, and its commit (or dead letter) not yet on disk.
IN_FLIGHT_PAUSE = 64  # stop reading: 64 readings of 150 B are 10 KB a connection, 20 MB for 2000
IN_FLIGHT_RESUME = 32  # read again below this, so that a socket is not switched for every message
IN_FLIGHT_HURRY = 16  # a backlog drains: ask for a commit now instead of waiting for the window

# Bytes asked of a socket at once; what lies in a paused connection's buffer is at most this
# and one packet: (16 + 64) KiB, 160 MB if all of 2000 connections fill it on purpose.
READ_CHUNK_BYTES = 16 * 1024
# Others have their turn after so many packets of one client: a chunk holds 3300 of the smallest
# publishes, measured at 11 ms on a PC, and a Pi takes about four times that. 512 take 1.5 ms on the PC.
PACKETS_PER_TURN = 512
# WebSocket frames likewise: 2730 pings of a chunk took 38 ms on the PC. The input is cut into pieces
# that hold no more than this many frames (an empty one has 6 bytes), so that one turn handles
# fewer than 256: below 4 ms.
FRAMES_PER_TURN = 128
FRAME_BYTES_MIN = 6
# A peer that does not read: what may wait for it before its deadline starts.
WRITE_HIGH_WATER_BYTES = 64 * 1024
# Output of one loop turn is written at once; more than this goes out in between.
WRITE_BATCH_BYTES = 16 * 1024

# A socket that is refused stays this long, so that it hears why; none of them holds more than the
# kernel's buffers, and 64 file descriptors are few beside 2000.
TURNED_AWAY_LINGER_S = 1.0
TURNED_AWAY_MAX = 64
TURNED_AWAY_BYTES_MAX = 64 * 1024  # a CONNECT with a will; more is no client that waits for us

# A browser's WebSocket request with its cookies is below 4 KiB; servers take 8 KiB for one header.
HANDSHAKE_BYTES_MAX = 16 * 1024

CLIENT_ID_BYTES_MAX = 256  # the standard asks for 23 at least; the id is kept with every message
FILTERS_PER_CLIENT_MAX = 200  # a dashboard has a dozen; more are refused with 0x80
FILTERS_MAX = 10_000  # of all clients: a topic that is new is compared with each, 6 ms; 1.2 KB each at most
SESSIONS_PER_DEVICE_MAX = 8  # beyond it a device that is away gives room first; tools beside a collar are few
QOS2_IDS_PER_CLIENT_MAX = 1024  # ids between PUBLISH and PUBREL; 16 × what may be unacknowledged
SESSIONS_PER_CONNECTION = 2  # as many again may be away; what is forgotten for a newcomer: see exchange
SESSION_IDLE_MS = 30 * DAY_MS  # a client that stays away longer has been replaced

RETAINED_MESSAGES_MAX = 10_000  # two topics for each of 5000 animals
RETAINED_BYTES_MAX = 16 * 1024 * 1024  # 1.6 KB each

DELIVERY_IN_FLIGHT_MAX = 20  # QoS 1 and 2 to one subscriber, unacknowledged; mosquitto's default
BACKLOG_MESSAGES_MAX = 2000  # waiting for one subscriber, connected or not
CONFLATE_FROM = 200  # waiting messages from which on only the newest state of a topic is kept
MESSAGE_OVERHEAD_BYTES = 400  # what a waiting message costs beside topic and payload, measured
RETAINED_DUE_BYTES = 100  # a topic whose retained message a client is still to get: its place in a table
BACKLOG_SESSION_BYTES_MAX = 2 * 1024 * 1024  # of one subscriber: 2000 of 1 KB; one always fits
BACKLOG_BYTES_MAX = 32 * 1024 * 1024  # waiting for all subscribers together
BACKLOG_OFFLINE_BYTES_MAX = 24 * 1024 * 1024  # of that, for those who are away: they cannot starve the others

RULINGS_MAX = 8192  # cached decisions about topics: 5000 animals and some; 3 MB
ROLE_SETS_MAX = 4  # sets of roles with such a cache: sensors, concentrators, operators, anonymous
PLANS_MAX = 8192  # cached lists of subscribers of a topic; likewise


class DoorLimits(msgspec.Struct, frozen=True):
    """What an installation or a test may set.

    Args:
        packet_size_max: bytes after the fixed header; taken from it before anything is kept.
        connections_max: sockets at once; a newcomer gets CONNACK 3.
        connections_per_address_max: sockets of one address; base stations and routers
            speak for many collars, so it is wide. Loopback is exempt unless told otherwise.
        loopback_exempt: local tools are not counted per address.
        connect_timeout_s: from the TCP accept to an accepted CONNECT, a TLS or WebSocket handshake included.
        keepalive_factor: a silent client goes after this times its keepalive (3.1.2.10).
        write_deadline_s: how long a peer may leave its output unread.
        close_timeout_s: how long `close` waits for output to leave.
    """

    packet_size_max: int = 64 * 1024
    connections_max: int = 2000
    connections_per_address_max: int = 256
    loopback_exempt: bool = True
    connect_timeout_s: float = 10.0
    keepalive_factor: float = 1.5
    write_deadline_s: float = 5.0
    close_timeout_s: float = 2.0

    @property
    def sessions_max(self) -> int:
        """Sessions held, of clients that are here and of those that may come back."""
        return int(SESSIONS_PER_CONNECTION * self.connections_max)
