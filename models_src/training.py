"""The training loop: epochs of joint steps, evaluation after each, the final model.

Axes: B pairs, C clusters.
"""

import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from datasets_src.images import normalise
from datasets_src.pairs import (
    PairBatch,
    TrainingPairs,
    load_readable_images,
    pair_batches,
    require_readable,
)
from models_src.development import Development, Plan, require_same_plan
from models_src.diagnosis import Activity, activity, empty_sums, step_sums, trouble
from models_src.distributed import (
    any_rank,
    average_statistics,
    by_first_rank,
    gather_objects,
    own_images,
    rank,
    replicated,
    sum_over_ranks,
    world_size,
)
from models_src.hardware import require_compiler, require_precision, to_device
from models_src.joint import joint_step
from models_src.model_files import (
    Origin,
    model_exists,
    remove_model,
    require_whole_model,
    save_model,
)
from models_src.settings import TrainingSettings
from models_src.text_encoders.interface import TextEncoder
from models_src.training_run import (
    DataIdentity,
    RunOptions,
    TrainingRun,
    find_checkpoint,
    new_run,
    require_same_run,
    save_checkpoint,
    whole_checkpoint,
)
from utils.errors import UserError
from utils.files import only_process
from utils.progress import with_bar

SHOW_EVERY_STEPS = 10  # in the progress bar
LOG_EVERY_STEPS = 100
SETTLING_STEPS = 300  # after the random start, in which few clusters are no bad sign yet
RANDOM_START_STEPS = 450  # by default, for encoders that learn by gradient
BEST_METRIC = "categorization.all_words.f_score"

logger = logging.getLogger(__name__)

Metrics = dict[str, float | None]


class LossNotFiniteError(UserError):
    """Training went astray, as it does with too large a learning rate."""


def train(
    settings: TrainingSettings,
    pairs: TrainingPairs,
    options: RunOptions,
    evaluate: Callable[[TextEncoder], Metrics] | None,
    report: Callable[[list[Metrics]], None],
    plan: Plan | None = None,
) -> bool:
    """Train both encoders on all pairs and write the model as ``options.name``.

    After every epoch the text encoder is evaluated; the epoch with the highest
    ``categorization.all_words.f_score`` (ties: the first) is kept as ``<name>_best``.

    Args:
        settings: What is computed.
        pairs: The training data.
        options: Where files go, and how to run.
        evaluate: Returns metrics of a text encoder by name; with None there are no metrics and no
            best epoch.
        report: Takes the rows of all epochs so far, after each epoch.
        plan: What is measured between epochs, if anything; it does not change what is trained.

    Returns:
        Whether a signal asked to stop when there was no step left, so that training ended as usual.

    Raises:
        UserError: a finished or unfinished run of that name is in the way, or one under way in
            another process; the checkpoint does not belong to these settings or data, more than 1 %
            of the images are unreadable, or the loss is not finite.
        KeyboardInterrupt: a signal ended training; a checkpoint was saved.
    """
    with ExitStack() as locks:
        by_first_rank(_lock_names)(locks, options)
        if plan is not None:
            plan = replace(
                plan, evaluate=by_first_rank(plan.evaluate), report=by_first_rank(plan.report)
            )
        evaluate = by_first_rank(evaluate) if evaluate is not None else None
        report = by_first_rank(report)
        options = replace(options, watch=by_first_rank(options.watch))
        return _train_alone(settings, pairs, options, evaluate, report, plan)


def _lock_names(locks: ExitStack, options: RunOptions) -> None:
    """Keep other processes from training a model of these names, as long as ``locks`` is open."""
    for name in (options.name, f"{options.name}_best"):  # all names that are written
        place = options.models_dir / f"{name}.lock"
        locks.enter_context(only_process(place, f"the training of '{name}'"))


def _train_alone(
    settings: TrainingSettings,
    pairs: TrainingPairs,
    options: RunOptions,
    evaluate: Callable[[TextEncoder], Metrics] | None,
    report: Callable[[list[Metrics]], None],
    plan: Plan | None = None,
) -> bool:
    """Do what ``train`` does, while no other process trains a model of these names."""
    checkpoint = by_first_rank(find_checkpoint)(options)
    is_finished = by_first_rank(model_exists)(options.models_dir, options.name)
    if checkpoint is None and options.resume and is_finished:
        by_first_rank(require_whole_model)(options.models_dir, options.name)
        logger.info("'%s' is finished: there is nothing to continue", options.name)
        return False
    require_precision(settings.precision, options.device)
    data = DataIdentity(
        pairs.fingerprint(),
        torch.from_numpy(pairs.split.image_file_sizes()),
        options.measured_against,
    )
    if checkpoint is not None:
        with whole_checkpoint(options.checkpoint_file):
            require_same_run(checkpoint, settings, data, options.checkpoint_file)
    run = new_run(settings, pairs, options.device, is_continued=checkpoint is not None)
    steps = len(_batches(settings, pairs, epoch=0))
    if plan is not None:
        nothing = empty_sums(settings.cluster_num, options.device)
        run.development = Development(plan, steps * settings.epochs, nothing)
    if checkpoint is not None:
        with whole_checkpoint(options.checkpoint_file):
            require_same_plan(checkpoint["run"].get("development"), plan, options.checkpoint_file)
            run.load_state(checkpoint["run"], options.device)
        logger.info("continuing after %d joint steps", run.step)
        if run.history and run.batch == 0:
            report(run.history)  # what stopped it may have come before this
    elif options.resume:
        logger.info("there is no checkpoint of '%s': training starts anew", options.name)
    if options.compile:
        require_compiler(options.device)
        run.visual.network.compile()  # in place: names of weights stay as they are
    visual = replicated(run.visual)
    if checkpoint is None and options.overwrite:
        # the old run's best epoch must not stand beside the new run's model
        by_first_rank(remove_model)(options.models_dir, f"{options.name}_best")

    random_start = random_start_steps(settings, run.text.starts_at_random, steps)

    if random_start // 3 >= steps * settings.epochs:
        logger.warning(
            "the text encoder learns nothing in this run: it has %d steps, and learns after a "
            "third of the %d with random votes; lower --random_start_steps or give more --epochs",
            steps * settings.epochs,
            random_start,
        )

    @by_first_rank
    def keep() -> None:
        if not run.is_finite():  # the last checkpoint stays
            raise _not_finite(run.step)
        save_checkpoint(run, settings, data, options.checkpoint_file)

    @by_first_rank
    def save(name: str) -> None:
        origin = Origin(
            run.run_id,
            run.step,
            settings.seed,
            data.captions,
            commit=run.commit,
            training_seconds=round(run.seconds(), 1),
        )
        save_model(
            options.models_dir,
            name,
            settings,
            origin,
            run.visual,
            run.text,
            pairs.vocabulary.counts,
        )

    with _stop_requests() as stop, _progress(run, settings, pairs) as progress:
        while run.epoch < settings.epochs:
            _train_epoch(run, visual, settings, pairs, options, random_start, stop, progress, keep)
            keep()  # whatever ends the process while it measures costs no step
            run.text.summarise(_caption_batches(pairs, settings.batch_size))
            row = _epoch_row(run, evaluate)
            options.watch("epochs", run.step, row)
            is_last = run.epoch + 1 == settings.epochs
            if is_last or run.step >= random_start + SETTLING_STEPS:
                _warn_once(run, activity(run.totals), settings.cluster_num)
            run.epoch, run.batch = run.epoch + 1, 0
            run.totals = torch.zeros_like(run.totals)
            best = max((_score(earlier) for earlier in run.history), default=float("-inf"))
            run.history.append(row)
            if _score(row) > best:
                save(f"{options.name}_best")
            keep()
            report(run.history)
            if run.epoch < settings.epochs and any_rank(stop())[0]:
                _end_here(options)
    save(options.name)
    by_first_rank(options.checkpoint_file.unlink)(missing_ok=True)
    if run.bad_images:
        logger.warning(
            "%d of %d images were left out: missing or unreadable, see above",
            len(run.bad_images),
            len(pairs.split.image_ids),
        )
    if evaluate is not None and _score(run.history[-1]) == float("-inf"):
        logger.info("'%s_best' is not written: no epoch has a %s", options.name, BEST_METRIC)
    return any_rank(stop())[0]


def random_start_steps(
    settings: TrainingSettings, starts_at_random: bool, steps_per_epoch: int
) -> int:
    """Return how many steps at the start have random votes, see the setting of that name."""
    if settings.random_start_steps is not None:
        return settings.random_start_steps
    if not starts_at_random:
        return 0
    return min(RANDOM_START_STEPS, settings.epochs * steps_per_epoch // 3)


def _batches(settings: TrainingSettings, pairs: TrainingPairs, epoch: int) -> list[PairBatch]:
    """Return the batches of one epoch."""
    return pair_batches(
        pairs.split.caption_image,
        settings.batch_size,
        settings.seed,
        epoch,
        group_captions=settings.group_captions,
    )


def _train_epoch(
    run: TrainingRun,
    visual: nn.Module,
    settings: TrainingSettings,
    pairs: TrainingPairs,
    options: RunOptions,
    random_start: int,
    stop: Callable[[], bool],
    progress: "tqdm[NoReturn]",
    keep: Callable[[], None],
) -> None:
    """Take the joint steps of the current epoch that are left.

    ``visual`` is the run's visual encoder, replicated. The first ``random_start`` steps of the run
    have random votes.
    """
    batches = _batches(settings, pairs, run.epoch)
    left = batches[run.batch :]
    pairs_done = _pair_count(batches[: run.batch])  # of this epoch
    started = last_saved = time.monotonic()
    pairs_seen = 0
    reported = run.totals.clone()  # the sums at the last report
    run.visual.train()
    owned = [own_images(len(batch.images)) for batch in left]  # (I,) bool of each batch
    loading = load_readable_images(
        pairs.split,
        [batch.images[own] for batch, own in zip(left, owned, strict=True)],
        settings.image_size,
        options.workers,
    )
    with closing(loading):  # whatever ends training, the workers end with it
        for whole_batch, own, loaded in zip(left, owned, loading, strict=True):
            errors = _errors_of_all(loaded.errors, own)
            if errors:
                _note_bad_images(run, whole_batch, errors, len(pairs.split.image_ids))
            kept = np.array([place not in errors for place in range(len(whole_batch.images))])
            if errors and kept.sum() < 2:  # batch normalisation needs two images
                kept[:] = False
                sums = empty_sums(settings.cluster_num, options.device)
            else:
                pixels = _augmented(loaded.pixels, kept, own, settings, run)
                sums = _take_step(
                    run,
                    visual,
                    settings,
                    pairs,
                    whole_batch.only(kept),
                    own[kept],
                    pixels,
                    random_start,
                )
            run.totals += sums
            run.batch += 1
            run.step += 1
            if run.development is not None:
                run.development.add(sums, pairs.captions, whole_batch.only(kept).captions)
                if run.development.is_due(run.step):
                    run.text.summarise(_caption_batches(pairs, settings.batch_size))
                    run.development.measure(run.step, run.visual, run.text)
                    options.watch("development", run.step, run.development.moments[-1].flat())
            pairs_seen += len(whole_batch.captions)
            progress.update(len(whole_batch.captions))
            if run.step % SHOW_EVERY_STEPS == 0 or run.batch == len(batches):
                progress.set_postfix(_shown(activity(sums), run.step))
            if run.step % LOG_EVERY_STEPS == 0 or run.batch == len(batches):
                since = run.totals - reported
                reported.copy_(run.totals)
                seen = activity(since)
                speed = pairs_seen / (time.monotonic() - started)
                pairs_left = (settings.epochs - run.epoch) * len(pairs) - pairs_done - pairs_seen
                _log_activity(run, seen, settings.cluster_num, speed, pairs_left / speed)
                options.watch("steps", run.step, vars(seen) | {"pairs_per_second": speed})
                enough = since[0].item() > LOG_EVERY_STEPS / 2 * settings.batch_size
                if enough and run.step >= random_start + SETTLING_STEPS:
                    _warn_once(run, seen, settings.cluster_num)
            is_late = time.monotonic() - last_saved > 60 * options.checkpoint_minutes
            has_to_stop, is_late = any_rank(stop(), is_late)
            if has_to_stop:
                keep()
                _end_here(options)
            if is_late:
                keep()
                last_saved = time.monotonic()


def _augmented(
    pixels: Tensor | None,
    kept: np.ndarray,
    own: np.ndarray,
    settings: TrainingSettings,
    run: TrainingRun,
) -> Tensor:
    """Return a rank's images (I', 3, S, S), half of them mirrored with ``--flip_images``.

    What is drawn follows from the place in the run, so that a continued run draws the same.

    Args:
        pixels: (I', 3, S, S) uint8 images of this rank that can be read; None without any.
        kept: (I,) bool, which images of the whole batch can be read.
        own: (I,) bool, which of them are this rank's.
        settings: Of the training.
        run: Where it is.
    """
    if pixels is None:
        return torch.zeros(0, 3, settings.image_size, settings.image_size, dtype=torch.uint8)
    if settings.flip_images:
        rng = np.random.default_rng([settings.seed, run.epoch, run.batch])
        mirrored = torch.from_numpy(rng.random(len(kept))[kept & own] < 0.5)  # (I',)
        pixels[mirrored] = pixels[mirrored].flip(-1)
    return pixels


def _take_step(
    run: TrainingRun,
    visual: nn.Module,
    settings: TrainingSettings,
    pairs: TrainingPairs,
    batch: PairBatch,
    own: np.ndarray,
    pixels: Tensor,
    random_start: int,
) -> Tensor:
    """Take the run's next joint step and return its sums over all ranks (see ``step_sums``).

    Args:
        run: Both encoders and their optimizers.
        visual: The run's visual encoder, replicated.
        settings: Of the training.
        pairs: The training data.
        batch: The whole batch of I images.
        own: (I,) bool, which images are this rank's.
        pixels: (I', 3, S, S) uint8, those.
        random_start: Steps at the start of the run that have random votes.
    """
    share = batch.only(own)
    # padded as the whole batch is
    tokens = pairs.captions.padded(batch.captions)[own[batch.image_of_caption]]
    _part_ways(settings.seed, run.step)
    result = joint_step(
        visual,
        run.optimizer,
        run.text,
        normalise(to_device(pixels, run.totals.device)),
        to_device(torch.from_numpy(share.image_of_caption), run.totals.device),
        torch.from_numpy(tokens),
        settings.visual_threshold,
        settings.text_threshold,
        random_votes=run.step < random_start,
        # at first the image bits mean nothing yet
        teach_text=run.step >= random_start // 3,
        precision=settings.precision,
        scaler=run.scaler,
    )
    average_statistics(run.visual)
    return sum_over_ranks(step_sums(result))


def _pair_count(batches: Sequence[PairBatch]) -> int:
    """Return how many pairs some batches have."""
    return sum(len(batch.captions) for batch in batches)


def _errors_of_all(errors: Mapping[int, UserError], own: np.ndarray) -> dict[int, UserError]:
    """Return why images of a batch cannot be read, from all ranks.

    Args:
        errors: Position among this rank's images -> why that image cannot be read.
        own: (I,) bool, which images of the batch are this rank's.

    Returns:
        The same by position in the batch.
    """
    if not any_rank(bool(errors))[0]:
        return {}
    places = np.flatnonzero(own)
    by_place = {int(places[position]): error for position, error in errors.items()}
    return {place: why for part in gather_objects(by_place) for place, why in part.items()}


def _part_ways(seed: int, step: int) -> None:
    """Let dropout differ between ranks. The first goes on as if alone, and needs nothing."""
    if rank() > 0:
        torch.manual_seed(int(np.random.SeedSequence([seed, step, rank()]).generate_state(1)[0]))


def _note_bad_images(
    run: TrainingRun, batch: PairBatch, errors: Mapping[int, UserError], total: int
) -> None:
    """Log each image of a batch that cannot be read, the first time only.

    Args:
        run: Whose images they are.
        batch: The whole batch.
        errors: Position in ``batch.images`` -> why that image cannot be read.
        total: How many images there are to train on.

    Raises:
        UserError: there are too many.
    """
    for place, error in errors.items():
        image = int(batch.images[place])
        if image in run.bad_images:
            continue
        run.bad_images.add(image)
        logger.warning("left out of training: %s", error)
        require_readable(len(run.bad_images), total, str(error))


def _shown(seen: Activity, step: int) -> dict[str, str]:
    """Return figures for people, and stop when the losses are not finite."""
    losses = [loss for loss in (seen.visual_loss, seen.text_loss) if loss is not None]
    if not np.isfinite(losses).all():
        raise _not_finite(step)
    return {
        "visual_loss": f"{seen.visual_loss:.4f}",
        "text_loss": "-" if seen.text_loss is None else f"{seen.text_loss:.4f}",
        "clusters/image": f"{seen.clusters_per_image:.2f}",
        "clusters/caption": f"{seen.clusters_per_caption:.2f}",
    }


def _not_finite(step: int) -> LossNotFiniteError:
    """Return the error for a training that went astray."""
    return LossNotFiniteError(
        f"the loss is not finite after {step} steps; lower --visual_learning_rate or "
        "--text_learning_rate"
    )


def _log_activity(
    run: TrainingRun, seen: Activity, cluster_num: int, speed: float, seconds_left: float
) -> None:
    """Log what the steps since the last report saw."""
    agreement = "-" if seen.agreement is None else f"{seen.agreement:.2f}"
    logger.info(
        "epoch %d, step %d: %s, without any %.0f %% and %.0f %%, alive %d and %d of %d clusters, "
        "agreement %s; %.0f pairs/s, %s left",
        run.epoch + 1,
        run.step,
        ", ".join(f"{name} {value}" for name, value in _shown(seen, run.step).items()),
        100 * seen.images_without_cluster,
        100 * seen.captions_without_cluster,
        seen.alive_image_clusters,
        seen.alive_caption_clusters,
        cluster_num,
        agreement,
        speed,
        tqdm.format_interval(seconds_left),
    )


def _warn_once(run: TrainingRun, seen: Activity, cluster_num: int) -> None:
    """Warn, the first time only, when training starves or has collapsed."""
    reason = trouble(seen, cluster_num)
    if reason is not None and not run.warned:
        logger.warning("after %d steps: %s", run.step, reason)
        run.warned = True


def _epoch_row(run: TrainingRun, evaluate: Callable[[TextEncoder], Metrics] | None) -> Metrics:
    """Return one epoch's row: means of the training steps, then metrics."""
    return vars(activity(run.totals)) | (evaluate(run.text) if evaluate is not None else {})


def _score(row: Metrics) -> float:
    """Return what the best epoch is chosen by; -inf where it is unknown."""
    value = row.get(BEST_METRIC)
    return float("-inf") if value is None else value


def _caption_batches(pairs: TrainingPairs, batch_size: int) -> Iterator[Tensor]:
    """Yield this rank's part of the training captions as padded batches."""
    starts = range(0, len(pairs), batch_size)[rank() :: world_size()]
    for start in with_bar(starts, "reading captions", "batch"):
        chunk = np.arange(start, min(start + batch_size, len(pairs)))
        yield torch.from_numpy(pairs.captions.padded(chunk))


def _end_here(options: RunOptions) -> NoReturn:
    """End a training that a signal asked to stop, after its checkpoint."""
    logger.info("stopped; continue with %s", options.continue_with)
    raise KeyboardInterrupt


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first signal of a kind into a request that training asks for between two steps.

    A second one acts as usual. The earlier handlers come back at the end.
    """
    requested = False
    # Ctrl-C, what ends a process, and what clusters can be told to send before a job's time is up
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def request(number: int, _frame: object) -> None:
        nonlocal requested
        requested = True
        signal.signal(number, earlier[signal.Signals(number)])
        logger.info("stopping after this step; a second signal stops at once")

    earlier = {number: signal.signal(number, request) for number in signals}
    try:
        yield lambda: requested
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def _progress(
    run: TrainingRun, settings: TrainingSettings, pairs: TrainingPairs
) -> Iterator["tqdm[NoReturn]"]:
    """Yield a bar over all pairs of all epochs; it is silent where there is no terminal.

    Of several processes the first one shows it.
    """
    total = settings.epochs * len(pairs)
    done = run.epoch * len(pairs) + _pair_count(_batches(settings, pairs, run.epoch)[: run.batch])
    silent = None if rank() == 0 else True
    with (
        logging_redirect_tqdm(),
        tqdm(total=total, initial=done, unit="pair", disable=silent) as progress,
    ):
        yield progress
