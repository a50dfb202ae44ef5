"""Joint training: the state of a run, its checkpoint, and the loop over epochs and batches.

Axes: I images of a batch, B pairs of a batch, C clusters.
"""

import logging
import math
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from datasets_src.images import cropped, normalise
from datasets_src.loading import LoadedBatch, load_batches, require_readable
from datasets_src.pairs import PairBatch, TrainingPairs, pair_batches
from models_src.development import Development, Plan
from models_src.diagnosis import (
    BatchStatistics,
    agreeing_clusters,
    batch_statistics,
    empty_sums,
    step_sums,
    trouble,
)
from models_src.distributed import (
    any_rank,
    average_statistics,
    own_images,
    rank,
    replicated,
    sum_over_ranks,
    world_size,
)
from models_src.hardware import (
    adam,
    gradient_scaler,
    require_compiler,
    require_precision,
    to_device,
)
from models_src.joint import ShareThresholds, VoteOdds, joint_step
from models_src.model_files import (
    Halves,
    Origin,
    load_tensors,
    model_exists,
    model_path,
    read_header,
    remove_model,
    save_halves,
    save_tensors,
)
from models_src.settings import TrainingSettings
from models_src.text_encoders import TEXT_ENCODERS
from models_src.text_encoders.interface import TextEncoder, build_text_encoder
from models_src.visual_encoders import VisualEncoder, build_visual_encoder
from utils.errors import UserError
from utils.files import only_process, reading
from utils.progress import with_bar
from utils.provenance import ROOT, git_commit

CHECKPOINT_VERSION = 7
SHOW_EVERY_STEPS = 10  # in the progress bar
LOG_EVERY_STEPS = 100
SETTLING_STEPS = 300  # after the random start, in which few clusters are no bad sign yet
FEWEST_STEPS = 50  # of which it can be said that training starves or has collapsed
TEACH_TEXT_FROM = 0.67  # of the random start: before it, image bits mean nothing yet
NEVER = -100.0  # logit of a cluster that no image activates
LOWEST_RATE = 0.03  # at the end of --cosine_decay, of the CNN's learning rate
BEST_BY = {"agreement": "agreement", "f_score": "categorization.all_words.f_score"}

logger = logging.getLogger(__name__)

Metrics = dict[str, float | None]


class LossNotFiniteError(UserError):
    """Training went astray, as it does with too large a learning rate."""

    def __init__(self, step: int) -> None:
        super().__init__(
            f"the loss is not finite after {step} steps; lower --visual_learning_rate or "
            "--text_learning_rate"
        )


@dataclass(frozen=True)
class RunOptions:
    """Runtime options; they do not affect what is learned beyond rounding."""

    name: str
    models_dir: Path
    device: str = "cpu"
    workers: int = 0
    resume: bool = False
    overwrite: bool = False
    checkpoint_minutes: float = 30.0
    compile: bool = False
    best_by: str = "agreement"  # a key of BEST_BY
    continue_with: str = "--resume"  # what an interrupted user is told to give
    # what a continued run must share with its first session, beside captions and settings
    identity: Mapping[str, Any] = field(default_factory=dict)
    # takes all that is logged: "steps", "epochs" or "development", the joint step, values by name
    watch: Callable[[str, int, Mapping[str, float | None]], None] = lambda *_: None

    @property
    def checkpoint_file(self) -> Path:
        """The file from which the run continues; that of a finished run stays, to train on from."""
        return self.models_dir / f"{self.name}.checkpoint"


@dataclass
class TrainingRun:
    """What learns, from what, and how far it is: ``state_dict`` is all that a checkpoint needs."""

    settings: TrainingSettings
    pairs: TrainingPairs
    visual: VisualEncoder
    text: TextEncoder
    optimizer: torch.optim.Optimizer
    scaler: GradScaler
    totals: Tensor  # sums over the current epoch, see diagnosis.step_sums
    agreeing: Tensor  # (C,) bool: clusters of the epoch before, see diagnosis.agreeing_clusters
    random_start: int  # joint steps with random votes
    steps: int  # joint steps of the whole run
    shares: ShareThresholds | None = None  # image bits for the text encoder, see ``image_share``
    odds: VoteOdds | None = None  # see ``logit_adjustment``
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    epoch: int = 0  # epochs finished
    batch: int = 0  # batches of the current epoch finished
    step: int = 0  # joint steps taken, those that unreadable images left nothing of included
    warned: bool = False  # of starving or collapse: once is enough
    history: list[Metrics] = field(default_factory=list)
    bad_images: set[int] = field(default_factory=set)  # missing or unreadable, by index
    development: Development | None = None  # metrics by step, where they are asked for
    began: float = field(default_factory=time.monotonic)  # earlier sessions' time before it

    _PLAIN = ("random_start", "run_id", "epoch", "batch", "step", "warned", "history")

    def state_dict(self) -> dict[str, Any]:
        """Return the run as tensors and plain values."""
        return {
            "visual": self.visual.state_dict(),
            "text": self.text.training_state_dict(),
            "share_thresholds": self.shares.values if self.shares else None,
            "vote_shares": self.odds.values if self.odds else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "totals": self.totals,
            "agreeing": self.agreeing,
            "seconds": time.monotonic() - self.began,
            "bad_images": sorted(self.bad_images),
            "development": self.development.state_dict() if self.development else None,
            **{name: getattr(self, name) for name in self._PLAIN},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        self.visual.load_state_dict(state["visual"])
        self.text.load_training_state_dict(state["text"])
        for part, name in ((self.shares, "share_thresholds"), (self.odds, "vote_shares")):
            if part is not None and state[name] is not None:  # None before the first step
                part.values = state[name].to(self.totals.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if state["cuda_random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_random"])
        self.totals = state["totals"].to(self.totals)
        self.agreeing = state["agreeing"].to(self.agreeing)
        self.began = time.monotonic() - state["seconds"]
        self.bad_images = set(state["bad_images"])
        for name in self._PLAIN:
            setattr(self, name, state[name])
        if self.development is not None:
            self.development.load_state_dict(state["development"])


def new_run(
    settings: TrainingSettings, pairs: TrainingPairs, device: str, *, with_pretrained: bool = True
) -> TrainingRun:
    """Return a run before its first step; every random weight follows from the seed."""
    torch.manual_seed(settings.seed)
    visual = build_visual_encoder(settings, device, with_pretrained=with_pretrained)
    text = build_text_encoder(settings, pairs.vocabulary.words, device)
    steps = settings.epochs * len(epoch_batches(settings, pairs, epoch=0))
    return TrainingRun(
        settings,
        pairs,
        visual,
        text,
        adam(visual, settings.visual_learning_rate),
        gradient_scaler(settings.precision, device),
        empty_sums(settings.cluster_num, device),
        torch.ones(settings.cluster_num, dtype=torch.bool, device=device),
        random_start_steps(settings, steps),
        steps,
        ShareThresholds(settings.image_share) if settings.image_share else None,
        VoteOdds() if settings.logit_adjustment else None,
    )


def random_start_steps(settings: TrainingSettings, steps: int) -> int:
    """Return how many of a run's steps have random votes; a setting above ``steps`` means all."""
    if settings.random_start_steps is not None:
        return min(settings.random_start_steps, steps)
    return steps // 3 if TEXT_ENCODERS[settings.text_encoder].by_gradient else 0


def save_checkpoint(run: TrainingRun, identity: Mapping[str, Any], path: Path) -> None:
    """Write all that an exact continuation needs; what is not finite is not written."""
    state = run.state_dict()
    if not _is_finite([run.totals, state["visual"], state["text"]]):
        raise LossNotFiniteError(run.step)
    parts = {"settings": run.settings.as_dict(), "identity": dict(identity), "run": state}
    save_tensors(path, {"version": CHECKPOINT_VERSION, **parts})


def _is_finite(state: Any) -> bool:
    """Say whether all tensors of a state, at whatever depth, are finite."""
    if isinstance(state, Tensor):
        return bool(torch.isfinite(state).all())
    if isinstance(state, Mapping):
        state = list(state.values())
    return not isinstance(state, list) or all(map(_is_finite, state))


def require_free_name(options: RunOptions) -> None:
    """Raise a UserError where training would replace a model or run that it does not continue."""
    has_checkpoint = options.checkpoint_file.exists()
    is_finished = model_exists(options.models_dir, options.name)
    if options.overwrite or (options.resume and (has_checkpoint or is_finished)):
        return
    if has_checkpoint and not is_finished:
        raise UserError(
            f"{options.checkpoint_file} holds an unfinished training; continue it with --resume, "
            "or give --overwrite to start anew"
        )
    for name in (options.name, f"{options.name}_best"):
        if model_exists(options.models_dir, name):
            raise UserError(
                f"there is a model '{name}' in {options.models_dir}; give another --model_name, "
                "--resume with more --epochs to train it on, or --overwrite to replace it"
            )


def load_checkpoint(
    settings: TrainingSettings, options: RunOptions, identity: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the checkpoint to continue from, of the same settings and data; None to start anew.

    Epochs may differ.
    """
    path = options.checkpoint_file
    if not options.resume or not path.exists():
        return None
    checkpoint = load_tensors(path, "the checkpoint")
    if checkpoint.get("version") != CHECKPOINT_VERSION:
        raise UserError(f"{path} is of another version; start anew with --overwrite")
    before = checkpoint["settings"] | checkpoint["identity"]
    now = settings.as_dict() | dict(identity)
    differing = [
        f"{name} was {_short(before.get(name))}, is {_short(now.get(name))}"
        for name in before | now
        if before.get(name) != now.get(name) and name != "epochs"
    ]
    if differing:
        raise UserError(
            f"{path} is of other settings or data ({'; '.join(differing)}); give the same, or "
            "--overwrite without --resume to start anew"
        )
    return checkpoint


def _short(value: Any) -> str:
    """Return a setting as it is, and the beginning of a hash."""
    return str(value)[:8] if isinstance(value, str) and len(value) == 64 else str(value)


def train(
    settings: TrainingSettings,
    pairs: TrainingPairs,
    options: RunOptions,
    evaluate: Callable[[TextEncoder], Metrics] | None,
    report: Callable[[list[Metrics]], None],
    plan: Plan | None = None,
) -> bool:
    """Train both encoders on all pairs and write the model as ``options.name``.

    The best epoch is kept as ``<name>_best`` (see ``best_epoch``). After each epoch ``evaluate``
    returns metrics of the text encoder by name, and ``report`` takes the rows of all epochs so far;
    ``plan`` is what is measured between epochs, and changes nothing of what is trained.

    A signal ends training with a checkpoint and a KeyboardInterrupt. Returns whether it came when
    there was no step left, so that training ended as usual.
    """
    folder, name, best = options.models_dir, options.name, f"{options.name}_best"
    is_first, commit = rank() == 0, git_commit(ROOT)
    identity = {"captions": pairs.fingerprint(), **options.identity}
    with ExitStack() as stack:
        if is_first:
            for written in (name, best):
                lock = only_process(folder / f"{written}.lock", f"the training of '{written}'")
                stack.enter_context(lock)
        require_free_name(options)
        require_precision(settings.precision, options.device)
        checkpoint = load_checkpoint(settings, options, identity)
        if checkpoint is None and options.resume:
            if model_exists(folder, name):
                header, _ = read_header(model_path(folder, "text", name, "cfg"), "text")
                had = f"'{name}' is finished: it has had {header.epochs} epochs"
                if settings.epochs > header.epochs:
                    raise UserError(
                        f"{had}, and has no checkpoint to train on from; give --overwrite "
                        "(without --resume) to train anew"
                    )
                logger.info("%s", had)
                return False
            logger.info("there is no checkpoint of '%s': training starts anew", name)
        run = new_run(settings, pairs, options.device, with_pretrained=checkpoint is None)
        if plan is not None:
            run.development = Development(plan, run.steps, torch.zeros_like(run.totals))

        def keep() -> None:
            if is_first:
                save_checkpoint(run, identity, options.checkpoint_file)

        def save(name: str) -> None:
            seconds = round(time.monotonic() - run.began, 1)
            source = run.run_id, run.step, settings.seed, identity["captions"]
            origin = Origin(*source, commit=commit, training_seconds=seconds)
            # the larger first: where one fails, it is this
            halves: Halves = {"visual": (settings, run.visual), "text": (settings, run.text)}
            with _only_shared_clusters(run):
                save_halves(folder, name, origin, halves, pairs.vocabulary.counts)

        if checkpoint is not None:
            random_start = run.random_start
            with reading(options.checkpoint_file, "start anew with --overwrite"):
                run.load_state_dict(checkpoint["run"])
            if settings.random_start_steps is not None:  # which more epochs may have room for
                run.random_start = random_start
            if settings.epochs <= run.epoch:
                had = f"'{name}' has had {run.epoch} epochs"
                if run.epoch < checkpoint["settings"]["epochs"]:
                    raise UserError(f"{had}; give more --epochs to continue it")
                logger.info("%s: to train it on, give more --epochs", had)
                if is_first and not model_exists(folder, name):
                    save(name)
                return False
            logger.info("continuing after %d joint steps", run.step)
            if is_first and run.history and run.batch == 0:
                report(run.history)  # what stopped it may have come before this
        if options.compile:
            require_compiler(options.device)
            run.visual.network.compile()  # in place: names of weights stay as they are
        visual = replicated(run.visual)
        if options.overwrite and is_first:
            # the old run's best epoch must not stand beside the new run's model, nor its checkpoint
            remove_model(folder, best)
            keep()
        logger.info("of two figures below, the first is of images, the second of captions")
        behind = epoch_batches(settings, pairs, run.epoch)[: run.batch]
        stop = stack.enter_context(_stop_requests())
        stack.enter_context(logging_redirect_tqdm())
        progress: tqdm[NoReturn] = tqdm(
            total=settings.epochs * len(pairs),
            initial=run.epoch * len(pairs) + sum(len(batch.captions) for batch in behind),
            unit="pair",
            disable=None if is_first else True,  # None: unless it is a terminal
        )
        stack.enter_context(progress)
        while run.epoch < settings.epochs:
            train_one_epoch(run, visual, options, keep, stop, progress)
            run.text.refresh_word_table(caption_batches(pairs, settings.batch_size))
            seen = _finite_statistics(run.totals, run.step)
            is_last = run.epoch + 1 == settings.epochs
            if _is_settled(run) or (is_last and run.step >= FEWEST_STEPS):
                _warn_once(run, seen)
            row: Metrics = dict(vars(seen))
            if evaluate is not None and is_first:
                row |= evaluate(run.text)
            run.epoch, run.batch = run.epoch + 1, 0
            run.totals = torch.zeros_like(run.totals)
            run.history.append(row)
            if is_first:
                options.watch("epochs", run.step, row)
                if best_epoch(run, settings.epochs, options.best_by) == run.epoch - 1:
                    save(best)
                if is_last:
                    save(name)
                keep()
                report(run.history)
            if not is_last and any_rank(stop())[0]:
                _end_here(options)
        if run.bad_images:
            logger.warning(
                "%d of %d images were left out: missing or unreadable, see above",
                len(run.bad_images),
                len(pairs.split.image_ids),
            )
        return any_rank(stop())[0]


def best_epoch(run: TrainingRun, epochs: int, best_by: str) -> int | None:
    """Return the epoch so far (from 0) with the best figure, the first of equals; None without any.

    The agreement of an epoch with random votes says nothing of the encoders: such an epoch counts
    only where it is the last of a run of ``epochs``.
    """
    first = 0
    if best_by == "agreement":
        steps = run.step // run.epoch
        first = min(-(-run.random_start // steps), epochs - 1)
    scores = {epoch: row.get(BEST_BY[best_by]) for epoch, row in enumerate(run.history)}
    known = {epoch: score for epoch, score in scores.items() if score is not None}
    return max((epoch for epoch in known if epoch >= first), key=known.__getitem__, default=None)


def epoch_batches(settings: TrainingSettings, pairs: TrainingPairs, epoch: int) -> list[PairBatch]:
    """Return the batches of one epoch."""
    order = pairs.split.caption_image, settings.batch_size, settings.seed, epoch
    return pair_batches(*order, group_captions=settings.group_captions)


def caption_batches(pairs: TrainingPairs, batch_size: int) -> Iterator[Tensor]:
    """Yield this rank's part of the training captions as padded batches."""
    starts = range(0, len(pairs), batch_size)[rank() :: world_size()]
    for start in with_bar(starts, "reading captions", "batch"):
        chunk = np.arange(start, min(start + batch_size, len(pairs)))
        yield torch.from_numpy(pairs.captions.padded(chunk))


def train_one_epoch(
    run: TrainingRun,
    visual: nn.Module,
    options: RunOptions,
    keep: Callable[[], None],
    stop: Callable[[], bool],
    progress: "tqdm[NoReturn]",
) -> None:
    """Take the joint steps of the current epoch that are left.

    ``visual`` is the run's visual encoder, replicated; ``keep`` writes a checkpoint, ``stop`` says
    whether training has been asked to stop.
    """
    settings, pairs = run.settings, run.pairs
    batches = epoch_batches(settings, pairs, run.epoch)
    left = batches[run.batch :]
    pairs_left = sum(len(batch.captions) for batch in left)
    pairs_left += (settings.epochs - run.epoch - 1) * len(pairs)
    started = last_saved = time.monotonic()
    pairs_seen = 0
    reported, reported_step = run.totals.clone(), run.step
    run.visual.train()
    owned = [own_images(len(batch.images)) for batch in left]  # (I,) bool of each batch
    own_batches = [batch.images[own] for batch, own in zip(left, owned, strict=True)]
    loading = load_batches(pairs.split.images(settings.image_size), own_batches, options.workers)
    with closing(loading):  # whatever ends training, the workers end with it
        for batch, own, loaded in zip(left, owned, loading, strict=True):
            sums = learn_batch(run, visual, batch, own, loaded)
            run.totals += sums
            run.batch += 1
            run.step += 1
            is_end = run.batch == len(batches)
            if is_end:
                run.agreeing = agreeing_clusters(run.totals)
            if run.development is not None and run.development.is_due(run.step):
                run.text.refresh_word_table(caption_batches(pairs, settings.batch_size))
                with _only_shared_clusters(run):
                    run.development.measure(run.step, run.visual, run.text)
                if rank() == 0:
                    row = run.development.moments[-1].flat()
                    options.watch("development", run.step, row)
            pairs_seen += len(batch.captions)
            progress.update(len(batch.captions))
            if run.step % SHOW_EVERY_STEPS == 0 or is_end:
                progress.set_postfix(_figures(_finite_statistics(sums, run.step)))
            if run.step % LOG_EVERY_STEPS == 0 or is_end:
                seen = _finite_statistics(run.totals - reported, run.step)
                speed = pairs_seen / (time.monotonic() - started)
                remaining = tqdm.format_interval((pairs_left - pairs_seen) / speed)
                figures = ", ".join(f"{name} {value}" for name, value in _figures(seen).items())
                place = f"epoch {run.epoch + 1} step {run.step}"
                logger.info("%s: %s, %.0f pairs/s, %s left", place, figures, speed, remaining)
                if rank() == 0:
                    options.watch("steps", run.step, vars(seen) | {"pairs_per_second": speed})
                if run.step - reported_step >= FEWEST_STEPS and _is_settled(run):
                    _warn_once(run, seen)
                reported, reported_step = run.totals.clone(), run.step
            is_late = time.monotonic() - last_saved > 60 * options.checkpoint_minutes
            has_to_stop, is_late = any_rank(stop(), is_late)
            if has_to_stop or is_late:
                keep()
                last_saved = time.monotonic()
            if has_to_stop:
                _end_here(options)


def learn_batch(
    run: TrainingRun, visual: nn.Module, batch: PairBatch, own: np.ndarray, loaded: LoadedBatch
) -> Tensor:
    """Take the next joint step on what all ranks can read of a batch; log other images once.

    ``own`` (I,) bool says which images are this rank's, ``loaded`` what was read of those. Returns
    the step's sums, of no pairs where too little is left. Where too many images of the whole
    training are lost, a UserError ends it.
    """
    settings, split = run.settings, run.pairs.split
    reasons = {np.flatnonzero(own)[place]: error for place, error in loaded.errors.items()}
    is_bad = np.array(any_rank(*(place in reasons for place in range(len(own)))))  # (I,)
    for place in np.flatnonzero(is_bad):
        image = int(batch.images[place])
        if image not in run.bad_images:
            run.bad_images.add(image)
            reason = str(reasons.get(place, f"image {split.path(image)} is missing or damaged"))
            logger.warning("left out of training: %s", reason)
            require_readable(len(run.bad_images), len(split.image_ids), reason)
    batch = batch.only(~is_bad)
    if len(batch.images) < 2:  # batch normalisation needs two
        return torch.zeros_like(run.totals)
    if loaded.pixels is None:  # this rank has none
        pixels = torch.zeros(0, 3, *[settings.image_size] * 2, dtype=torch.uint8)
    else:
        pixels = torch.from_numpy(loaded.pixels)
    # what is drawn follows from the place in the run
    rng = np.random.default_rng([settings.seed, run.epoch, run.batch])
    draws = torch.from_numpy(rng.random((4, len(own)), dtype=np.float32))
    draws = draws[:, own & ~is_bad]  # of this rank's images
    if settings.flip_images:
        mirrored = draws[0] < 0.5
        pixels[mirrored] = pixels[mirrored].flip(-1)
    if settings.smallest_crop < 1 and len(pixels):
        pixels = cropped(pixels, draws[1:].T, settings.smallest_crop)
    sums = take_step(run, visual, batch, own[~is_bad], pixels)
    if run.development is not None:
        run.development.add(sums, run.pairs.captions, batch.captions)
    return sums


def take_step(
    run: TrainingRun, visual: nn.Module, batch: PairBatch, own: np.ndarray, pixels: Tensor
) -> Tensor:
    """Take the run's next joint step and return its sums over all ranks (see ``step_sums``).

    ``batch`` is the whole batch of I images, ``own`` (I,) bool says which are this rank's, and
    ``pixels`` (I', 3, S, S) uint8 are those.
    """
    settings, device = run.settings, run.totals.device
    share = batch.only(own)
    # steps since the encoders began to teach each other, negative before
    since, span = run.step - run.random_start, max(1, run.steps - run.random_start)
    teach_text = run.step >= TEACH_TEXT_FROM * run.random_start
    pause = max(1, int(0.8 * span / settings.vote_revisions))  # between revisions
    if since >= 0 and since % pause == 0 and since < pause * settings.vote_revisions:
        run.text.revise_votes()
    if settings.cosine_decay:
        decay = (1 + math.cos(math.pi * max(0, since) / span)) / 2
        rate = settings.visual_learning_rate * max(LOWEST_RATE, decay)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
    # padded as the whole batch is
    tokens = run.pairs.captions.padded(batch.captions)[own[batch.image_of_caption]]
    if rank() > 0:  # dropout must differ between ranks; the first goes on as if alone
        seeds = np.random.SeedSequence([settings.seed, run.step, rank()])
        torch.manual_seed(int(seeds.generate_state(1)[0]))
    result = joint_step(
        visual,
        run.optimizer,
        run.text,
        normalise(to_device(pixels, device), run.visual.pixel_statistics),
        to_device(torch.from_numpy(share.image_of_caption), device),
        torch.from_numpy(tokens),
        settings.visual_threshold,
        settings.text_threshold,
        shares=run.shares,
        odds=run.odds,
        random_votes=since < 0,
        teach_text=teach_text,
        precision=settings.precision,
        scaler=run.scaler,
    )
    average_statistics(run.visual)
    return sum_over_ranks(step_sums(result))


@contextmanager
def _only_shared_clusters(run: TrainingRun) -> Iterator[None]:
    """Let images activate only clusters that both encoders know, as long as the block lasts.

    With lstm and gru, some words teach a cluster that they are too unsure of to activate it
    (``text_threshold``): the CNN learns it, but captions never speak of it. Of other clusters the
    CNN learns too little for its bits to agree with those of the captions.
    """
    bias = run.visual.head.bias  # (C,)
    learned = bias.detach().clone()
    if TEXT_ENCODERS[run.settings.text_encoder].by_gradient:
        probabilities, clusters = run.text.word_posteriors().max(dim=1)  # (V,), (V,)
        with_words = clusters[probabilities >= run.settings.text_threshold]
        spoken_of = torch.zeros_like(run.agreeing)
        spoken_of[with_words.to(bias.device)] = True
        bias.data.masked_fill_(~(spoken_of & run.agreeing), NEVER)
    try:
        yield
    finally:
        bias.data.copy_(learned)


def _finite_statistics(sums: Tensor, step: int) -> BatchStatistics:
    """Return what is told of joint steps; end training where a loss is not finite."""
    seen = batch_statistics(sums)
    if not np.isfinite([seen.visual_loss, seen.text_loss or 0]).all():
        raise LossNotFiniteError(step)
    return seen


def _figures(seen: BatchStatistics) -> dict[str, str]:
    """Return figures for people: of images, then of captions."""
    text_loss = "-" if seen.text_loss is None else f"{seen.text_loss:.3f}"
    kappa = "-" if seen.agreement is None else f"{seen.agreement:.2f}"
    without = 100 * seen.images_without_cluster, 100 * seen.captions_without_cluster
    return {
        "loss": f"{seen.visual_loss:.3f}/{text_loss}",
        "active": f"{seen.clusters_per_image:.1f}/{seen.clusters_per_caption:.1f}",
        "empty": f"{without[0]:.0f}/{without[1]:.0f}%",
        "alive": f"{seen.alive_image_clusters}/{seen.alive_caption_clusters}",
        "kappa": kappa,
    }


def _is_settled(run: TrainingRun) -> bool:
    return run.step >= run.random_start + SETTLING_STEPS


def _warn_once(run: TrainingRun, seen: BatchStatistics) -> None:
    """Warn, the first time only, when training starves or has collapsed."""
    reason = trouble(seen, run.text.cluster_num)
    if reason is not None and not run.warned:
        logger.warning("after %d steps: %s", run.step, reason)
        run.warned = True


def _end_here(options: RunOptions) -> NoReturn:
    """End a training that a signal asked to stop, after its checkpoint."""
    any_rank(False)  # a rank that ends has the others ended, perhaps before the first has written
    logger.info("stopped; continue with %s", options.continue_with)
    raise KeyboardInterrupt


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first signal of a kind into a request that training asks for between two steps."""
    requested = []
    # Ctrl-C, what ends a process, and what clusters can be told to send before a job's time is up
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def request(number: int, _frame: object) -> None:
        requested.append(number)
        signal.signal(number, earlier[signal.Signals(number)])
        logger.info("stopping after this step; a second signal stops at once")

    earlier = {number: signal.signal(number, request) for number in signals}
    try:
        yield lambda: bool(requested)
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
