"""The seeds of one model: what the trainer talks to.

A bank belongs to one model and lives as long as it does. On the step path it does three things: ``begin_step`` moves
alpha, the hooks of live seeds run inside the model's forward, ``isolated_step`` lets seeds in isolation learn.
Everything else happens between epochs: ``observing``, ``boundary``, ``order``/``execute``, export and import.
"""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from esper.errors import SlotError
from esper.kasmina import boundary, exchange, orders, stepping, together, transitions
from esper.kasmina.cache import KernelCache
from esper.kasmina.commands import Applied, Command
from esper.kasmina.exchange import DeployedSlot
from esper.kasmina.gates import GateResult, Judged
from esper.kasmina.hooks import SlotRuntime, sync
from esper.kasmina.loading import KernelReport, KernelSource, Loader
from esper.kasmina.peers import ALONE, Peers
from esper.kasmina.receiving import Receiver, execute
from esper.kasmina.sample import Sample
from esper.kasmina.seed import OCCUPIES, Seed, SeedEvent
from esper.kasmina.settings import SeedSettings
from esper.kasmina.slots import Slot, SlotLike, find, measure
from esper.kasmina.state_tensor import StateTensor
from esper.kasmina.statistics import Accumulator, SlotStatistics
from leyline.lifecycle import Stage
from leyline.resources.enums import Freeze

if TYPE_CHECKING:
    from leyline.keys import KeyRing


BANKS: weakref.WeakKeyDictionary[nn.Module, SeedBank] = weakref.WeakKeyDictionary()


class SeedBank:
    """Slots and seeds of one model.

    Attributes:
        slots: by id, in forward order; empty until a sample was seen.
        seeds: by id, every seed that ever germinated, in the order of germination.
        state: the seeds' state as a structure of arrays.
        host_flops: forward FLOPs of the host for one sample.
        reports: callbacks told about kernels that failed to load or at run time, at the next boundary or step.
        epoch: the latest boundary.
        peers: the other ranks that train the same network; none unless the trainer says so.
        faulted: what failed since the step began, until the ranks have agreed on it.
    """

    def __init__(
        self,
        model: nn.Module,
        specs: list[SlotLike | str],
        settings: SeedSettings | None = None,
        source: KernelSource | None = None,
    ) -> None:
        self._model = weakref.ref(model)
        self._specs = specs
        self.settings = settings or SeedSettings()
        self.source = source
        self.slots: dict[str, Slot] = {}
        self.seeds: dict[str, Seed] = {}
        self.state = StateTensor(0)
        self.host_flops = 0
        self.reports: list[Callable[[KernelReport], None]] = []
        self.epoch = 0
        self.last_epoch_steps = 0
        self.steps_since_boundary = 0
        self.capturing = False
        self.shadowing: Seed | None = None
        self.receiver: Receiver | None = None
        self.peers: Peers = ALONE
        self.faulted: list[stepping.Faulted] = []
        self.frozen = False
        self.loader = Loader(KernelCache(self.settings.cache_bytes, self.settings.cache_count))
        self._runtimes: dict[str, SlotRuntime] = {}
        self._places: dict[str, int] = {}
        self._handles: dict[str, RemovableHandle] = {}
        self._events: list[SeedEvent] = []
        self._pending_reports: list[KernelReport] = []
        self._statistics: dict[str, SlotStatistics] = {}
        self._ramping: list[Seed] = []
        self._learning: list[Seed] = []
        self._dirty = False
        find(model, specs)

    # -- what it is made of --------------------------------------------------------------------------------------

    @property
    def model(self) -> nn.Module:
        """The model.

        Raises:
            SlotError: it no longer exists; a bank does not keep its model alive.
        """
        model = self._model()
        if model is None:
            raise SlotError("the model of this bank is gone; keep a reference to the model, the bank holds none")
        return model

    def measure(self, sample: Sample) -> None:
        """Find the slots' interfaces and the host's FLOPs with one sample batch.

        Raises:
            SlotError: see :func:`esper.kasmina.slots.measure`; or there are seeds already.
        """
        if self.seeds:
            raise SlotError("the slots can't be measured again while there are seeds; unwrap the model first")
        self.remove_hooks()
        slots, flops = measure(self.model, self._specs, sample)
        self._place(slots, flops)

    def _place(self, slots: dict[str, Slot], host_flops: int) -> None:
        self.slots, self.host_flops = slots, host_flops
        self._runtimes = {name: SlotRuntime(slot, self) for name, slot in slots.items()}
        self._places = {name: place for place, name in enumerate(slots)}
        self.state = StateTensor(len(slots) * self.settings.max_per_slot)

    def sibling(self, model: nn.Module) -> SeedBank:
        """An empty bank of the same slots for a copy of the model; kernels are shared through the same cache."""
        other = SeedBank(model, self._specs, self.settings, self.source)
        other._place(self.slots, self.host_flops)
        other.loader, other.reports, other.frozen = self.loader, list(self.reports), self.frozen
        other.peers = self.peers
        BANKS[model] = other
        return other

    def configure(self, settings: SeedSettings | None = None, source: KernelSource | None = None) -> None:
        """Change settings or kernel source before the first seed.

        Raises:
            SlotError: there are seeds and the settings would change under them.
        """
        if settings is not None:
            if self.seeds:
                raise SlotError("settings can't change while there are seeds")
            self.settings = settings
            self.state = StateTensor(len(self.slots) * settings.max_per_slot)
            self.loader = Loader(KernelCache(settings.cache_bytes, settings.cache_count))
        if source is not None:
            self.source = source

    def host_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The host's own parameters by name."""
        return list(self.model.named_parameters())

    def host_tensors(self) -> dict[str, Tensor]:
        """The host's parameters and all its buffers by name, those outside its ``state_dict`` too."""
        model = self.model
        return {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def grafted_parameters(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Parameters that belong in the host's optimizer, by seed: stages GRAFTING to FOSSILIZED.

        While a seed stands still (STABILIZATION, EVALUATING) its parameters stay listed but don't require gradients.
        A seed fossilized with ``freeze: Immediately`` is not listed.
        """
        listed: dict[str, list[tuple[str, nn.Parameter]]] = {}
        for seed in self.seeds.values():
            frozen = seed.stage is Stage.FOSSILIZED and self.settings.freeze is Freeze.IMMEDIATELY
            if seed.affects_host and seed.kernel is not None and seed.trainable and not frozen:
                listed[seed.id] = list(seed.kernel.named_parameters())
        return listed

    def seeds_in(self, slot: str) -> list[Seed]:
        """The seeds that occupy places in a slot, in the order they are applied."""
        return [seed for seed in self.seeds.values() if seed.slot == slot and seed.stage in OCCUPIES]

    def free(self, slot: str) -> bool:
        """True if the slot has room for another seed."""
        return len(self.seeds_in(slot)) < self.settings.max_per_slot

    @property
    def parameters_used(self) -> int:
        """Parameters of the host and of every loaded kernel."""
        host = sum(p.numel() for p in self.model.parameters())
        return host + sum(
            p.numel() for seed in self.seeds.values() if seed.kernel is not None for p in seed.kernel.parameters()
        )

    # -- the step path -------------------------------------------------------------------------------------------

    def begin_step(self, step: int) -> None:
        """Call before each training step: moves alpha of seeds being grafted, arms the capture for seeds in isolation.

        ``step`` is informative; ramps count their own steps, so that training on the side fits in anywhere.
        """
        if self._dirty:
            self.refresh()
        if self._pending_reports:
            self.deliver_reports()
        self.faulted.clear()
        first = self.steps_since_boundary == 0
        self.steps_since_boundary += 1
        for seed in self._ramping:
            stepping.ramp(seed, first_of_epoch=first)
        self.capturing = bool(self._learning)
        for seed in self._learning:
            if seed.learner is not None:
                seed.learner.captures.clear()

    def isolated_step(self, forward_loss: Callable[[], Tensor]) -> int:
        """Call after the host's optimizer step: seeds in isolation learn from what this step showed them.

        Args:
            forward_loss: runs the model on the step's batch and returns the mean loss; called by the shadow objective
                only.

        Returns:
            How many seeds learned. The host, its buffers, gradients and the random numbers are as before.
        """
        self.capturing = False
        if not self.peers.alone:
            return together.learn(self, self._learning, forward_loss)
        return sum(stepping.learn(self, seed, forward_loss) for seed in self._learning)

    def fault(self, seed: Seed, error: Exception, *, blame_kernel: bool = True) -> None:
        """Take note that a seed failed inside a forward or backward pass: it is the identity from now on.

        The artifact is evicted for good and reported, unless it was the host that broke the interface. A fossilized
        seed is part of the host and has no way back: it goes on with its kernel's reference path, and is the identity
        only if that fails as well.
        """
        stepping.fault(self, seed, error, blame_kernel=blame_kernel)

    def agree_on_faults(self) -> None:
        """Called on every rank when one of them says that a seed failed: then it has failed on all."""
        together.agree_on_faults(self)

    def unite(self) -> None:
        """Called on every rank: what they measured apart of the seeds that affect the host becomes the same."""
        if not self.peers.alone:
            together.unite_scales(self, [seed for seed in self.seeds.values() if seed.affects_host])

    # -- observing -----------------------------------------------------------------------------------------------

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Take activation statistics of every slot in the forward passes inside; they replace the earlier ones.

        Raises:
            RuntimeError: it is active already.
        """
        if any(runtime.accumulator is not None for runtime in self._runtimes.values()):
            raise RuntimeError("observing() is active already")
        for runtime in self._runtimes.values():
            runtime.accumulator = Accumulator(runtime.slot.interface.width)
        self.sync_hooks()
        try:
            yield
            if not self.peers.alone:
                together.unite_sums(self, [r.accumulator for r in self._runtimes.values() if r.accumulator is not None])
        finally:
            for name, runtime in self._runtimes.items():
                if runtime.accumulator is not None:
                    self._statistics[name] = runtime.accumulator.result()
                runtime.accumulator = None
            self.sync_hooks()

    def statistics(self) -> dict[str, SlotStatistics]:
        """Statistics of the latest :meth:`observing` by slot; empty before the first."""
        return dict(self._statistics)

    # -- between epochs ------------------------------------------------------------------------------------------

    def boundary(self, epoch: int) -> None:
        """Pass an epoch boundary: check the state, finish loads, promote waiting seeds, set ``ready``.

        Raises:
            StateCorruption: the state's checksum does not fit.
        """
        boundary.boundary(self, epoch)

    def order(self, command: Command) -> Applied:
        """Carry out a command of this process. A command that can't be is refused, never raised."""
        return orders.order(self, command)

    def trust(self, keyring: KeyRing, run: str, clock: Callable[[], float] = time.time) -> None:
        """Say whose signed commands are taken, and for which run; the clock gives seconds since 1970."""
        self.receiver = Receiver(keyring, run, clock)

    def execute(self, envelope: bytes, now: float | None = None, message_id: str | None = None) -> Applied:
        """Verify a signed command (signature, topic, nonce, sequence, freshness, run) and carry it out.

        A forged, replayed, stale or malformed envelope is refused and changes nothing.
        """
        return execute(self, envelope, now, message_id)

    def set_verdict(self, seed_id: str, verdict: Judged) -> None:
        """Hand over the judge's verdict on a seed; gate G4 reads it at the next ADVANCE."""
        self.seeds[seed_id].verdict = verdict

    def freeze_all(self) -> None:
        """Freeze every fossilized seed: the host's own training has ended."""
        self.frozen = True
        for seed in self.seeds.values():
            transitions.set_gradients(self, seed)

    def stage_counts(self) -> dict[str, int]:
        """How many seeds are in each stage, by stage name; stages without seeds are left out."""
        counts = Counter(seed.stage.name for seed in self.seeds.values())
        return dict(sorted(counts.items()))

    def cull_into_dormant(
        self,
        seed_id: str,
        reference: Mapping[str, Tensor] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> GateResult:
        """Finish the reset of a culled or cancelled seed: gate G5; if it passes, parameters go and the place is free.

        Args:
            seed_id: a seed in CULLED or CANCELLED; one that is dormant already stays so.
            reference: :meth:`host_tensors` of a host that never had the seed; needed once the seed has affected the
                host.
            optimizer: the host's, to see that nothing of the seed is left in it.
        """
        return boundary.into_dormant(self, self.seeds[seed_id], reference, optimizer)

    def drain_events(self) -> list[SeedEvent]:
        """Transitions since the last call, in order."""
        events, self._events = self._events, []
        return events

    def deliver_reports(self) -> None:
        """Tell the callbacks about failed kernels."""
        pending, self._pending_reports = self._pending_reports, []
        for report in pending:
            for callback in self.reports:
                callback(report)

    def remove_hooks(self) -> None:
        """Remove every hook; the model computes as if it had never been wrapped."""
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()

    # -- state ---------------------------------------------------------------------------------------------------

    def export_state(self, *, host: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides the seeds' future bits: copies of tensors, and JSON values.

        Args:
            host: include the host's tensors as ``host/<name>``.
        """
        return exchange.export_state(self, host=host)

    def import_state(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], source: KernelSource | None = None
    ) -> None:
        """Make the seeds exactly what was exported; kernels are loaded from the source.

        Raises:
            CheckpointMismatch: the state is of other slots.
            StateCorruption: the state's checksum does not fit.
            EsperError: a kernel can't be loaded.
        """
        if source is not None:
            self.source = source
        exchange.import_state(self, tensors, meta)

    def fork(self, without: str | None = None) -> tuple[nn.Module, SeedBank]:
        """A copy of model and bank that shares no tensor with this one, without one seed if asked."""
        return exchange.fork(self, without)

    def adopt(self, other: SeedBank | tuple[Mapping[str, Tensor], Mapping[str, Any]]) -> None:
        """Take over every tensor bit of a twin (a bank, or its ``export_state(host=True)``), in place."""
        exchange.adopt(self, other)

    def deploy_plan(self) -> list[DeployedSlot]:
        """How to rebuild the grown model: per slot the ordered kernels with blend and alpha."""
        return exchange.deploy_plan(self)

    # -- used by the modules of this package ----------------------------------------------------------------------

    def emit(self, event: SeedEvent) -> None:
        """Record a transition."""
        self._events.append(event)

    def take_statistics(self, statistics: dict[str, SlotStatistics]) -> None:
        """Replace the statistics by those of a checkpoint."""
        self._statistics = statistics

    def report(self, report: KernelReport) -> None:
        """Queue a report about a kernel."""
        self._pending_reports.append(report)

    def runtime(self, slot: str) -> SlotRuntime:
        """What runs in a slot's forward pass."""
        return self._runtimes[slot]

    def row(self, seed: Seed) -> int:
        """The seed's row in the state."""
        return self._places[seed.slot] * self.settings.max_per_slot + seed.position

    def refresh(self) -> None:
        """Bring everything derived from the seeds' stages up to date: order in slots, work lists, hooks."""
        self._dirty = False
        live = sorted((s for s in self.seeds.values() if s.stage in OCCUPIES), key=lambda seed: seed.ordinal)
        by_slot: dict[str, list[Seed]] = {}
        for seed in live:
            by_slot.setdefault(seed.slot, []).append(seed)
        for name, runtime in self._runtimes.items():
            runtime.seeds = by_slot.get(name, [])
        self._ramping = [seed for seed in live if seed.stage is Stage.GRAFTING]
        self._learning = [seed for seed in live if seed.stage is Stage.TRAINING and seed.learner is not None]
        self.sync_hooks()

    def mark_dirty(self) -> None:
        """Have :meth:`refresh` run before the next step (used where hooks can't change: inside a forward pass)."""
        self._dirty = True

    def sync_hooks(self) -> None:
        """Install hooks where a seed needs one and remove the others."""
        sync(self.model, self._runtimes.values(), self._handles)
