"""HTTP/2 for clients: a server channel over `h2`, each stream of which runs an `Exchange` itself.

twisted.web has one too, which takes whole bodies into memory, and knows neither trailers nor 1xx. What a
client sends is counted and bounded in `http2_frames`, `h2` knows the protocol, and `http2_fields` makes of
its requests what all other rules are written for.
"""

from __future__ import annotations

from collections.abc import Callable
from random import getrandbits
from typing import TYPE_CHECKING, Any

from h2 import events
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..errors import BadRequest, HeadTooLarge, ProxyError, answer_for
from ..headers import OutgoingRequest
from ..messages import Answer, RequestHead
from ..transports import make_immediate
from .answers import report_refusal
from .http2_connection import MAX_STREAMS, bound_encoder, list_size, new_connection
from .http2_fields import LOGGED_VERSION, malformed, request_head, request_trailers
from .http2_frames import LARGE_COST, PATIENCE_PER_SECOND, RESET_COST, TURN, Fault, FrameReader, Patience
from .http2_sending import MAX_UNSENT, Http2Sending
from .http2_stream import Http2Stream
from .lingering import LINGER
from .peers import peer_of

if TYPE_CHECKING:
    from .resources import Proxied
    from .site import ProxySite


@implementer(IPushProducer, IHalfCloseableProtocol)
class Http2Channel(Http2Sending, Protocol):
    """One client connection: what comes in on it, and what becomes of it."""

    _served = 0
    _stopped = False
    _taking_turns = False
    _head_began = -1

    def __init__(self, site: ProxySite, proxied: Proxied) -> None:
        super().__init__()
        self.site = site
        self._proxied = proxied
        self.connection = new_connection(site.limits.head_size)
        self._patience = Patience()
        self._frames = FrameReader(self.streams, self._unended, self._patience, 2 * site.limits.head_size)
        self._begun: list[Http2Stream] = []

    def __repr__(self) -> str:
        return f"<Http2Channel of {self._peer.ip.decode()}: {list(self.streams.values())}>"

    def connectionMade(self) -> None:
        """Be known to the site while the connection lasts, and say our settings."""
        transport = self.transport
        make_immediate(transport)
        secure = ISSLTransport.providedBy(transport)
        self._peer = peer_of(transport.getPeer(), secure, self._proxied.desk.trusted)
        transport.registerProducer(self, True)
        self._quiet_since = self._head_began = self.site.ticks
        self.site.channel_opened(self)
        self._write()

    # What the client sends.

    def dataReceived(self, data: bytes) -> None:
        """Bytes of frames."""
        if self._dropped:
            return
        self._frames.add(data)
        if not self._stopped:
            self._read()

    def _read(self) -> None:
        """Take what frames there are, as long as it is this connection's turn."""
        self._reading = True
        try:
            turns = self._read_frames()
        except Fault as fault:
            self._fail(fault.code, fault.reason)
            return
        except ProtocolError as error:
            # h2 has said so to the client.
            self._end(str(error) or type(error).__name__)
            return
        finally:
            self._reading = False
        self._note_head(turns)
        begun, self._begun = self._begun, []
        for stream in begun:
            # With what there is of its body, in one piece; and not if it is reset by now.
            if stream.exchange is not None:
                stream.exchange.start()
        if self._frames.went_away:
            self._go_away()
        self._write()
        if turns == TURN and not self._dropped:
            # There may be more: now it is the others' turn.
            self._taking_turns = True
            self._steer()
            self.site.reactor.callLater(0, self._go_on)

    def _read_frames(self) -> int:
        """Take the frames of one turn, one by one: an answer must not meet what `h2` knows already."""
        for count in range(TURN):
            frame = self._frames.next()
            if not frame:
                return count
            for event in self.connection.receive_data(frame):
                react = _REACTIONS.get(type(event))
                if react is not None:
                    react(self, event)
        return TURN

    def _go_on(self) -> None:
        self._taking_turns = False
        self._steer()

    def _note_head(self, frames_came: int) -> None:
        """Remember since when we wait for the end of a head, or of a frame that is no body."""
        frames = self._frames
        if frames.in_head or frames.in_frame:
            if self._head_began < 0 or (frames_came and not frames.in_head):
                self._head_began = self.site.ticks
            return
        self._head_began = -1
        stream = self.streams.get(frames.body_of)
        if stream is not None and stream.exchange is not None:
            # A frame may take long to come whole.
            stream.exchange.client_progressed()

    def _request_received(self, event: events.RequestReceived) -> None:
        number = event.stream_id
        under_way = len(self.streams) + len(self._unended)
        if under_way >= MAX_STREAMS or (self._leaving and number > self._last):
            # Nothing was done for it: it may be made again (RFC 9113, 8.7).
            self.connection.reset_stream(number, ErrorCodes.REFUSED_STREAM)
            self._log_reset(Http2Stream(self, number, request_head(event.headers, True)[0]), "one too many")
            self._patience.spend(RESET_COST, "streams refused")
            return
        ended = event.stream_ended is not None
        head, flaw = request_head(event.headers, ended)
        stream = self.streams[number] = Http2Stream(self, number, head)
        stream.request_over = ended
        self._served += 1
        if self._served == self.site.limits.keepalive_requests:
            self._warn()
        try:
            if list_size(event.headers) > self.site.limits.head_size:
                self._patience.spend(LARGE_COST, "heads over the limit")
                raise HeadTooLarge(f"the head is over {self.site.limits.head_size} bytes")
            if flaw:
                stream.broken = True
                self._patience.spend(RESET_COST, "malformed requests")
                raise BadRequest(malformed(flaw))
            self._request(stream, head)
        except ProxyError as error:
            head.version = LOGGED_VERSION
            stream.refuse(*report_refusal(self._proxied.desk.log, head.method, head.target, error))
        except Fault:
            raise
        except Exception as error:
            head.version = LOGGED_VERSION
            self._proxied.desk.log.failure("choosing where a request goes failed")
            stream.refuse(*answer_for(error))

    def _log_reset(self, stream: Http2Stream, reason: str) -> None:
        """Tell the log of a request that is not answered."""
        stream.head.version = LOGGED_VERSION
        stream.reason = reason
        self.log_end(stream, None, 0)

    def _request(self, stream: Http2Stream, head: RequestHead) -> None:
        """Begin an exchange, or give an answer of ours; raises the `errors.ProxyError` that refuses."""
        desk = self._proxied.desk
        request: OutgoingRequest = desk.prepare(
            head, self._peer, b"%032x" % getrandbits(128), desk.trusted, self.site.limits
        )
        # Until here it was said in the words of HTTP/1.1.
        head.version = LOGGED_VERSION
        stream.id, stream.client = request.request_id, request.client_ip
        to = self._proxied.choose(request)
        if to is None:
            # A built-in service, which twisted.web serves: the client asks again (RFC 9113, 7).
            self._patience.spend(1, "requests that are not for HTTP/2")
            self._log_reset(stream, "to be asked for over HTTP/1.1")
            self.reset(stream, ErrorCodes.HTTP_1_1_REQUIRED)
        elif isinstance(to, Answer):
            stream.answer(to)
        else:
            stream.begin(desk.exchanges.begin(stream, request, to), request.body)
            self._begun.append(stream)

    def _data_received(self, event: events.DataReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.body_received(event.data, event.flow_controlled_length)
        elif event.stream_id in self._unended and event.flow_controlled_length:
            # Dropped: more may come on the connection, but not of this.
            self.connection.increment_flow_control_window(event.flow_controlled_length)

    def _trailers_received(self, event: events.TrailersReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return
        trailers, flaw = request_trailers(event.headers, self.site.limits.head_fields)
        if flaw:
            self._patience.spend(RESET_COST, "malformed requests")
            stream.break_off(flaw)
        else:
            stream.request_ended(trailers)

    def _stream_ended(self, event: events.StreamEnded) -> None:
        self._unended.pop(event.stream_id, None)
        stream = self.streams.get(event.stream_id)
        if stream is not None and not stream.request_over:
            stream.request_ended([])

    def _stream_reset(self, event: events.StreamReset) -> None:
        if not event.remote_reset:
            self._patience.spend(RESET_COST, "streams that had to be reset")
        self._unended.pop(event.stream_id, None)
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.give_up()
            self._forget(stream)

    def _window_updated(self, event: events.WindowUpdated) -> None:
        stream = self.streams.get(event.stream_id or 0)
        if stream is not None and stream.blocked:
            self._queue(stream)
        self._pump()

    def _settings_changed(self, event: events.RemoteSettingsChanged) -> None:
        if SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
            for stream in self.streams.values():
                if stream.blocked:
                    self._queue(stream)
        bound_encoder(self.connection.encoder)
        self._pump()

    def _fail(self, code: ErrorCodes, reason: str) -> None:
        """The connection cannot go on."""
        self.connection.close_connection(code)
        self._end(reason)

    def _end(self, reason: str) -> None:
        """Give up what is under way, and close behind the GOAWAY that was made."""
        self._proxied.desk.log.info(
            "closed an HTTP/2 connection of {ip}: {reason}", ip=self._peer.ip.decode(), reason=reason
        )
        self._dropped = True
        self._give_up_all(f"the connection ended: {reason}")
        self._drop()

    def _give_up_all(self, reason: str) -> None:
        for stream in list(self.streams.values()):
            stream.give_up(reason)
        self.streams.clear()
        self._ring.clear()

    # What the transport says.

    def _steer(self) -> None:
        """Read from the client unless there is a reason not to: the one place that decides it."""
        stopped = self._taking_turns or (self.full and len(self._unsent) > MAX_UNSENT)
        if stopped == self._stopped or self._dropped:
            return
        self._stopped = stopped
        if stopped:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()
            self._read()

    def pauseProducing(self) -> None:
        """The client does not keep up."""
        self.full = True
        self._quiet_since = self.site.ticks
        self._steer()

    def resumeProducing(self) -> None:
        """The client takes more."""
        self.full = False
        unsent, self._unsent = self._unsent, b""
        if unsent:
            self.transport.write(unsent)
        self._pump()
        self._write()
        self._steer()

    def stopProducing(self) -> None:
        """The transport will send nothing more: `connectionLost` follows."""

    def readConnectionLost(self) -> None:
        """The client sends nothing more: it counts as gone."""
        self._give_up_all("the client went away")
        self.close()

    def writeConnectionLost(self) -> None:
        """Our half is closed: what the client still sends is read, and dropped."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client is gone."""
        self._dropped = True
        self._give_up_all("the client went away")
        self.site.channel_closed(self)

    # Time.

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return not self.streams

    def tick(self, now: int) -> None:
        """A second has passed: close what is quiet for too long, or takes too long."""
        limits = self.site.limits
        self._patience.earn(PATIENCE_PER_SECOND)
        if self._dropped:
            self.tick_lingering(now)
        elif self.full:
            self._tick_full(now)
        elif self._head_began >= 0 and now - self._head_began > limits.head_timeout:
            self._fail(ErrorCodes.PROTOCOL_ERROR, f"a head took over {limits.head_timeout:g} s to arrive")
        else:
            if self._warned >= 0 and now > self._warned:
                self.close()
            elif self.site.closing:
                self._warn()
            elif not self.streams and now - self._quiet_since > limits.keepalive_timeout:
                self.close()
            self._tick_streams(now)

    def _tick_streams(self, now: int) -> None:
        for number, since in list(self._unended.items()):
            if now - since >= LINGER:
                del self._unended[number]
                self.connection.reset_stream(number, ErrorCodes.NO_ERROR)
        for stream in list(self.streams.values()):
            if stream.exchange is None and now - stream.quiet_since >= self.site.limits.idle_timeout:
                # What is left of its answer is not taken.
                self.reset(stream, ErrorCodes.CANCEL)
        self._write()

    def _tick_full(self, now: int) -> None:
        """A second has passed in which the client did not keep up: see `Lingering.tick_full`."""
        if self.took_some():
            self._quiet_since = now
            for stream in self.streams.values():
                stream.went_out(now)
        elif now - self._quiet_since >= self.site.limits.idle_timeout:
            self.transport.abortConnection()


_REACTIONS: dict[type[events.Event], Callable[[Http2Channel, Any], None]] = {
    events.RequestReceived: Http2Channel._request_received,
    events.DataReceived: Http2Channel._data_received,
    events.TrailersReceived: Http2Channel._trailers_received,
    events.StreamEnded: Http2Channel._stream_ended,
    events.StreamReset: Http2Channel._stream_reset,
    events.WindowUpdated: Http2Channel._window_updated,
    events.RemoteSettingsChanged: Http2Channel._settings_changed,
}
