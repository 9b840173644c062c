import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import hypervisor.observability as package
import pytest

from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_schemas.events import EventType, GovernanceEventType, HypervisorEvent, event_type_of

NOON = datetime(2025, 1, 15, 12, tzinfo=UTC)
ASSIGNED, ELEVATED = EventType.RING_ASSIGNED, EventType.RING_ELEVATED


def event(kind=ASSIGNED, session=None, agent=None, **fields):
    return HypervisorEvent(event_type=kind, session_id=session, agent_did=agent, **fields)


def filled(*events, **options):
    bus = HypervisorEventBus(**options)
    for each in events:
        bus.emit(each)
    return bus


def assert_indexes_agree_with_the_log(bus):
    log = bus.all_events
    assert bus.event_count == len(log)
    assert bus.type_counts() == {kind: len(bus.query_by_type(kind)) for kind in {each.event_type for each in log}}
    for key, query in (
        ("event_type", bus.query_by_type),
        ("session_id", bus.query_by_session),
        ("agent_did", bus.query_by_agent),
    ):
        for value in {getattr(each, key) for each in log} - {None}:
            assert query(value) == [each for each in log if getattr(each, key) == value]


class TestQueries:
    def test_an_emitted_event_is_found_by_type_session_agent_and_time(self):
        one = event(ASSIGNED, "s1", "did:mesh:a")
        other = event(ELEVATED, "s2", "did:mesh:b")
        bus = filled(one, other)
        assert bus.query_by_type(ASSIGNED) == [one]
        assert bus.query_by_session("s1") == [one]
        assert bus.query_by_agent("did:mesh:b") == [other]
        assert bus.query_by_time_range(datetime.now(UTC) - timedelta(hours=1)) == [one, other]
        assert bus.all_events == [one, other]
        assert bus.event_count == 2

    def test_types_count_under_their_values(self):
        bus = filled(event(ASSIGNED), event(ELEVATED), event(ASSIGNED), event(event_type_of("brand.new")))
        assert bus.type_counts() == {"ring.assigned": 2, "ring.elevated": 1, "brand.new": 1}
        assert all(type(key) is str for key in bus.type_counts())

    def test_a_type_is_the_same_in_our_enum_the_packages_and_as_plain_text(self):
        ours, foreign = event(ASSIGNED), package.HypervisorEvent(event_type=package.EventType.RING_ASSIGNED)
        bus = filled(ours, foreign)
        for kind in (ASSIGNED, package.EventType.RING_ASSIGNED, "ring.assigned"):
            assert bus.query_by_type(kind) == [ours, foreign]
            assert bus.query(event_type=kind, limit=1) == [foreign]

    def test_filters_are_combined_with_and(self):
        wanted = event(ASSIGNED, "s1", "a")
        bus = filled(event(ELEVATED, "s1", "a"), event(ASSIGNED, "s2", "a"), event(ASSIGNED, "s1", "b"), wanted)
        assert bus.query(event_type=ASSIGNED, session_id="s1", agent_did="a") == [wanted]
        assert bus.query(event_type=ASSIGNED, session_id="s2", agent_did="b") == []
        assert len(bus.query(session_id="s1")) == 3
        assert len(bus.query()) == 4

    @pytest.mark.parametrize("filters", [{}, {"session_id": "s"}, {"session_id": "s", "event_type": ASSIGNED}])
    def test_a_limit_gives_the_last_matches_in_order(self, filters):
        events = [event(ASSIGNED, "s", payload={"n": n}) for n in range(5)]
        bus = filled(*events)
        assert bus.query(**filters, limit=2) == events[-2:]
        assert bus.query(**filters, limit=99) == events
        assert bus.query(**filters, limit=0) == []

    def test_a_negative_limit_is_refused_in_a_sentence(self):
        with pytest.raises(ValueError, match="limit must be 0 or more, or None for no limit; -1 is neither"):
            filled(event()).query(limit=-1)

    def test_what_was_never_seen_gives_nothing_and_leaves_nothing_behind(self):
        bus = filled(event(ASSIGNED, "s", "a"))
        assert bus.query_by_type(ELEVATED) == bus.query_by_session("x") == bus.query_by_agent("x") == []
        assert bus.query(event_type=ASSIGNED, session_id="x") == []
        assert bus.type_counts() == {"ring.assigned": 1}

    def test_an_empty_session_is_a_session_for_every_query_alike(self):
        odd = event(ASSIGNED, "", "")
        bus = filled(event(ASSIGNED), odd)
        assert bus.query_by_session("") == bus.query(session_id="") == [odd]
        assert bus.query_by_agent("") == bus.query(agent_did="") == [odd]

    def test_no_session_is_not_every_session(self):
        bus = filled(event(ASSIGNED, None, None), event(ASSIGNED, "s", "a"))
        assert bus.query_by_session(None) == bus.query_by_agent(None) == bus.query_by_type(None) == []

    def test_the_answers_are_copies(self):
        bus = filled(event(session="s"))
        bus.all_events.clear()
        bus.query().clear()
        bus.query_by_session("s").clear()
        bus.type_counts().clear()
        assert len(bus.all_events) == len(bus.query_by_session("s")) == len(bus.type_counts()) == 1


class TestTimeRange:
    def test_both_ends_are_inclusive(self):
        events = [event(timestamp=NOON + timedelta(minutes=n)) for n in range(5)]
        found = filled(*events).query_by_time_range(NOON + timedelta(minutes=1), NOON + timedelta(minutes=3))
        assert found == events[1:4]

    def test_without_an_end_it_is_now_so_the_future_is_left_out(self):
        past, future = event(), event(timestamp=datetime.now(UTC) + timedelta(hours=1))
        bus = filled(past, future)
        assert bus.query_by_time_range(NOON) == [past]
        assert bus.query_by_time_range(NOON, datetime.max.replace(tzinfo=UTC)) == [past, future]

    def test_events_stay_in_the_order_they_were_emitted(self):
        late, early = event(timestamp=NOON), event(timestamp=NOON - timedelta(hours=1))
        assert filled(late, early).query_by_time_range(NOON - timedelta(days=1), NOON) == [late, early]

    def test_a_datetime_without_a_zone_counts_as_utc_on_either_side(self):
        naive = NOON.replace(tzinfo=None)
        aware_event, naive_event = event(timestamp=NOON), event(timestamp=naive)
        bus = filled(aware_event, naive_event)
        for moment in (NOON, naive):
            assert bus.query_by_time_range(moment, moment) == [aware_event, naive_event]
            assert bus.query_by_time_range(moment + timedelta(microseconds=1), moment + timedelta(hours=1)) == []


class CountingText(str):
    """A text that counts how often it is compared, which a walk over events has to do for each of them."""

    compared = 0

    def __eq__(self, other):
        CountingText.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


class TestWork:
    def test_a_query_walks_the_shortest_index_not_the_log(self):
        rare = event(ASSIGNED, CountingText("rare"), "a")
        bus = filled(*(event(ASSIGNED, CountingText("often"), "a") for _ in range(1000)), rare)
        CountingText.compared = 0
        assert bus.query(event_type=ASSIGNED, session_id="rare", agent_did="a") == [rare]
        assert CountingText.compared < 10

    def test_a_limited_query_stops_at_the_limit(self):
        events = [event(ASSIGNED, CountingText("s")) for _ in range(1000)]
        bus = filled(*events)
        CountingText.compared = 0
        assert bus.query(event_type=ASSIGNED, session_id="s", limit=2) == events[-2:]
        assert CountingText.compared < 10


class TestSubscribers:
    def test_a_handler_gets_the_events_of_its_type_and_a_wildcard_gets_all(self):
        bus, of_type, of_all = HypervisorEventBus(), [], []
        bus.subscribe(event_type=ASSIGNED, handler=of_type.append)
        bus.subscribe(event_type=None, handler=of_all.append)
        one, other = event(ASSIGNED), event(GovernanceEventType.TRUST_SCORE)
        bus.emit(one)
        bus.emit(other)
        assert of_type == [one]
        assert of_all == [one, other]

    def test_types_come_before_wildcards_each_in_the_order_they_subscribed(self):
        bus, called = HypervisorEventBus(), []
        bus.subscribe(handler=lambda _: called.append("every 1"))
        bus.subscribe(ASSIGNED, lambda _: called.append("type 1"))
        bus.subscribe(None, lambda _: called.append("every 2"))
        bus.subscribe("ring.assigned", lambda _: called.append("type 2"))
        bus.emit(event(ASSIGNED))
        assert called == ["type 1", "type 2", "every 1", "every 2"]

    @pytest.mark.parametrize("kind", [ASSIGNED, package.EventType.RING_ASSIGNED, "ring.assigned"])
    def test_one_may_subscribe_by_our_type_the_packages_or_plain_text(self, kind):
        bus, seen = HypervisorEventBus(), []
        bus.subscribe(kind, seen.append)
        bus.emit(event(ASSIGNED))
        bus.emit(package.HypervisorEvent(event_type=package.EventType.RING_ASSIGNED))
        bus.emit(event(ELEVATED))
        assert len(seen) == 2

    def test_without_a_handler_nothing_happens(self):
        bus = HypervisorEventBus()
        bus.subscribe()
        bus.subscribe(ASSIGNED)
        bus.subscribe(ASSIGNED, None)
        bus.emit(event(ASSIGNED))
        assert bus.handler_errors == 0

    def test_the_same_handler_twice_is_called_twice(self):
        bus, seen = HypervisorEventBus(), []
        bus.subscribe(ASSIGNED, seen.append)
        bus.subscribe(ASSIGNED, seen.append)
        bus.emit(event(ASSIGNED))
        assert len(seen) == 2

    def test_a_handler_finds_its_event_in_the_log_already(self):
        bus, found = HypervisorEventBus(), []
        bus.subscribe(ASSIGNED, lambda it: found.extend(bus.query_by_session(it.session_id)))
        emitted = event(ASSIGNED, "s")
        bus.emit(emitted)
        assert found == [emitted]

    def test_a_handler_may_emit(self):
        bus, seen = HypervisorEventBus(), []
        bus.subscribe(ASSIGNED, lambda it: bus.emit(event(ELEVATED, it.session_id)))
        bus.subscribe(ELEVATED, seen.append)
        bus.emit(event(ASSIGNED, "s"))
        assert [it.event_type for it in bus.query_by_session("s")] == [ASSIGNED, ELEVATED]
        assert len(seen) == 1

    def test_a_handler_may_subscribe_and_the_new_one_starts_with_the_next_event(self):
        bus, seen = HypervisorEventBus(), []

        def once(_):
            if not seen:
                bus.subscribe(ASSIGNED, seen.append)

        bus.subscribe(ASSIGNED, once)
        bus.emit(event(ASSIGNED, "first"))
        assert seen == []
        bus.emit(event(ASSIGNED, "second"))
        assert [it.session_id for it in seen] == ["second"]

    def test_other_threads_use_the_bus_while_a_handler_runs(self):
        bus = HypervisorEventBus()
        with ThreadPoolExecutor(1) as pool:

            def from_another_thread(it):
                if it.session_id is None:
                    pool.submit(bus.emit, event(ASSIGNED, "other thread")).result(timeout=30)

            bus.subscribe(handler=from_another_thread)
            bus.emit(event(ASSIGNED))
        assert bus.handler_errors == 0
        assert bus.event_count == 2


class TestRaisingHandlers:
    def test_the_other_handlers_and_the_emitter_go_on_and_it_is_counted(self):
        bus, seen = HypervisorEventBus(), []
        bus.subscribe(ASSIGNED, broken)
        bus.subscribe(ASSIGNED, seen.append)
        bus.subscribe(None, broken)
        bus.subscribe(None, seen.append)
        bus.emit(event(ASSIGNED))
        assert len(seen) == 2
        assert bus.handler_errors == 2
        assert bus.event_count == 1

    def test_the_first_failure_is_logged_whole_the_next_ones_once_a_minute_with_their_number(self, caplog):
        now = [1000.0]
        bus = HypervisorEventBus(clock=lambda: now[0])
        bus.subscribe(ASSIGNED, broken)
        for seconds in (0, 1, 58, 59.9):
            now[0] = 1000 + seconds
            bus.emit(event(ASSIGNED))
        first = "The event handler broken raised on a ring.assigned event."
        assert [record.getMessage() for record in caplog.records] == [first]
        assert "ValueError: out of order" in caplog.text

        caplog.clear()
        now[0] = 1060
        bus.emit(event(ASSIGNED))
        bus.emit(event(ASSIGNED))
        assert [record.getMessage() for record in caplog.records] == [f"{first} (and 3 more like it since)"]
        assert all(record.levelno == logging.ERROR for record in caplog.records)
        assert bus.handler_errors == 6

    def test_each_handler_has_a_first_failure_of_its_own(self, caplog):
        bus = HypervisorEventBus()
        bus.subscribe(ASSIGNED, broken)
        bus.emit(event(ASSIGNED))

        def broken_as_well(_):
            raise ValueError

        bus.subscribe(ASSIGNED, broken_as_well)
        bus.emit(event(ASSIGNED))
        assert len(caplog.records) == 2
        assert "broken_as_well" in caplog.text

    def test_a_handler_that_cannot_be_shown_is_logged_by_its_class(self, caplog):
        class Odd:
            def __repr__(self):
                raise RuntimeError("nor shown")

            def __call__(self, _):
                raise RuntimeError("nor called")

        bus = HypervisorEventBus()
        bus.subscribe(ASSIGNED, Odd())
        bus.emit(event(ASSIGNED))
        assert "Odd raised on a ring.assigned event" in caplog.text

    def test_a_handler_that_emits_without_end_is_stopped_by_the_stack_and_does_not_reach_the_emitter(self):
        bus = HypervisorEventBus()
        bus.subscribe(ELEVATED, bus.emit)
        bus.emit(event(ELEVATED))
        assert bus.handler_errors >= 1
        bus.emit(event(ASSIGNED))
        assert_indexes_agree_with_the_log(bus)

    def test_a_wish_to_stop_the_program_passes_through(self):
        bus = HypervisorEventBus()

        def stop(_):
            raise KeyboardInterrupt

        bus.subscribe(ASSIGNED, stop)
        with pytest.raises(KeyboardInterrupt):
            bus.emit(event(ASSIGNED))
        assert bus.handler_errors == 0


def broken(_):
    raise ValueError("out of order")


class TestBound:
    def test_the_oldest_events_leave_the_log_and_every_index(self):
        events = [event(ELEVATED if n % 3 else ASSIGNED, f"s{n % 4}", f"a{n}") for n in range(20)]
        bus = filled(*events, max_events=7)
        assert bus.all_events == events[-7:]
        assert bus.query_by_agent("a12") == []
        assert bus.query_by_session("s0") == [events[16]]
        assert_indexes_agree_with_the_log(bus)

    def test_a_type_that_has_left_the_log_is_no_longer_counted(self):
        bus = filled(event(ASSIGNED), event(ELEVATED), max_events=1)
        assert bus.type_counts() == {"ring.elevated": 1}
        assert bus.query_by_type(ASSIGNED) == []

    def test_by_default_the_latest_hundred_thousand_are_kept(self):
        bus, one = HypervisorEventBus(), event()
        for _ in range(100_001):
            bus.emit(one)
        assert bus.event_count == 100_000

    def test_memory_does_not_grow_with_sessions_that_are_gone(self):
        bus = filled(*(event(ASSIGNED, f"s{n}", f"a{n}") for n in range(1000)), max_events=10)
        indexes = [kept for kept in vars(bus).values() if isinstance(kept, dict)]
        assert indexes
        assert all(len(index) <= 10 for index in indexes)

    def test_none_is_no_bound(self):
        assert filled(*[event()] * 1234, max_events=None).event_count == 1234

    def test_a_bus_may_keep_nothing_and_still_call_its_subscribers(self):
        bus, seen = HypervisorEventBus(max_events=0), []
        bus.subscribe(handler=seen.append)
        bus.emit(event(ASSIGNED, "s", "a"))
        assert len(seen) == 1
        assert bus.event_count == 0
        assert bus.query_by_session("s") == bus.all_events == []
        assert bus.type_counts() == {}

    def test_a_negative_bound_is_refused_in_a_sentence(self):
        with pytest.raises(ValueError, match="max_events must be 0 or more, or None for no bound; -5 is neither"):
            HypervisorEventBus(max_events=-5)


class TestStrangeEvents:
    def test_only_attributes_are_read(self):
        stranger = SimpleNamespace(
            event_type=SimpleNamespace(value="ring.assigned"), session_id="s", agent_did="a", timestamp=NOON
        )
        bus = filled(stranger)
        assert bus.query(event_type=ASSIGNED, session_id="s", agent_did="a") == [stranger]
        assert bus.query_by_time_range(NOON) == [stranger]

    def test_an_event_that_changes_later_leaves_the_indexes_it_was_put_in(self):
        changing = SimpleNamespace(event_type=ASSIGNED, session_id="before", agent_did="before", timestamp=NOON)
        bus = filled(changing, max_events=1)
        changing.session_id = changing.agent_did = "after"
        assert bus.query_by_session("before") == [changing]
        bus.emit(event(ELEVATED, "after", "after"))
        assert bus.query_by_session("before") == bus.query_by_agent("before") == []
        assert_indexes_agree_with_the_log(bus)

    @pytest.mark.parametrize(
        "odd",
        [
            SimpleNamespace(event_type=ASSIGNED, session_id=["no", "key"], agent_did="a"),
            SimpleNamespace(event_type=ASSIGNED, session_id="s", agent_did={}),
            SimpleNamespace(event_type=ASSIGNED),
        ],
    )
    def test_what_cannot_be_indexed_is_refused_and_nothing_has_changed(self, odd):
        bus = filled(event(ELEVATED, "s", "a"), max_events=2)
        with pytest.raises((TypeError, AttributeError)):
            bus.emit(odd)
        assert bus.type_counts() == {"ring.elevated": 1}
        for _ in range(3):
            bus.emit(event(ASSIGNED, "s", "a"))
        assert_indexes_agree_with_the_log(bus)


class Interrupting(str):
    """A session id that runs something in the middle of an emit, as a signal handler would, where it is hashed."""

    def __new__(cls, text, action, at=1):
        self = super().__new__(cls, text)
        self.left, self.action = at, action
        return self

    def __hash__(self):
        self.left -= 1
        if self.left == 0:
            self.action()
        return str.__hash__(self)

    __eq__ = str.__eq__


def emit_all(bus, sessions):
    for session in sessions:
        bus.emit(event(ASSIGNED, session, "a"))


class TestInterruptions:
    # The first hash is the look-up of an emit, the second and third are in its eviction.
    @pytest.mark.parametrize("at", [1, 2, 3])
    @pytest.mark.parametrize("bound", [1, 2, 5])
    @pytest.mark.timeout(30)
    def test_an_emit_in_the_middle_of_an_emit_neither_hangs_nor_is_lost(self, at, bound):
        bus, seen = HypervisorEventBus(max_events=bound), []
        bus.subscribe(handler=seen.append)
        nested = event(ASSIGNED, "s", "nested")
        bus.emit(event(ASSIGNED, Interrupting("s", lambda: bus.emit(nested), at), "a"))
        for _ in range(bound + 2):
            bus.emit(event(ASSIGNED, "s", "a"))
        assert nested in seen
        assert len(seen) == bound + 4
        assert bus.event_count == bound
        assert_indexes_agree_with_the_log(bus)

    @pytest.mark.parametrize("at", [1, 2, 3])
    def test_an_interrupted_emit_leaves_a_bus_that_works(self, at):
        def interrupt():
            raise KeyboardInterrupt

        bus = HypervisorEventBus(max_events=3)
        with pytest.raises(KeyboardInterrupt):
            emit_all(bus, (Interrupting("s", interrupt, at), *"ssssss"))
        for _ in range(4):
            bus.emit(event(ASSIGNED, "s", "a"))
        assert bus.event_count == 3
        assert_indexes_agree_with_the_log(bus)


class TestThreads:
    def test_events_of_many_threads_are_all_there_each_threads_in_order(self):
        bus, seen = HypervisorEventBus(), []
        bus.subscribe(handler=seen.append)

        def emit(worker):
            for n in range(500):
                bus.emit(event(ELEVATED if n % 2 else ASSIGNED, f"s{worker}", "shared", payload={"n": n}))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(emit, range(8)))
        assert bus.event_count == len(seen) == 4000
        assert bus.type_counts() == {"ring.assigned": 2000, "ring.elevated": 2000}
        for worker in range(8):
            assert [it.payload["n"] for it in bus.query_by_session(f"s{worker}")] == list(range(500))
        assert_indexes_agree_with_the_log(bus)

    def test_queries_see_a_whole_log_while_others_emit_and_evict(self):
        bus = HypervisorEventBus(max_events=50)
        stop = threading.Event()

        def emit():
            n = 0
            while not stop.is_set():
                bus.emit(event(ELEVATED if n % 2 else ASSIGNED, f"s{n % 7}", "a", payload={"n": n}))
                n += 1

        emitter = threading.Thread(target=emit)
        emitter.start()
        try:
            deadline = time.monotonic() + 30
            while bus.event_count < 50 and time.monotonic() < deadline:
                time.sleep(0.001)
            for _ in range(500):
                assert sum(bus.type_counts().values()) == len(bus.all_events) == 50
                numbers = [it.payload["n"] for it in bus.query(event_type=ASSIGNED, agent_did="a", limit=10)]
                assert numbers == list(range(numbers[0], numbers[0] + 20, 2))
        finally:
            stop.set()
            emitter.join()

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_a_child_that_is_forked_while_another_thread_is_inside_does_not_hang(self):
        bus = HypervisorEventBus()
        inside, go_on = threading.Event(), threading.Event()

        def wait_inside():
            inside.set()
            go_on.wait(60)

        other = threading.Thread(target=bus.emit, args=(event(ASSIGNED, Interrupting("s", wait_inside)),))
        other.start()
        assert inside.wait(60)
        child = os.fork()
        if child == 0:
            # Ends the child if it hangs; its exit status then says so.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            try:
                bus.emit(event(ELEVATED, "child"))
                os._exit(0 if bus.query_by_session("child") else 3)
            finally:
                os._exit(4)
        go_on.set()
        other.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert [it.session_id for it in bus.all_events] == ["s"]
