"""How long until the same answer? This library and its peers on one network, from a cold process and again warm.

    python benchmarks/time_to_answer.py prepare   --problem digits
    python benchmarks/time_to_answer.py reference --problem digits
    python benchmarks/time_to_answer.py search    --problem digits      # cheapest settings of every peer
    python benchmarks/time_to_answer.py time      --problem digits --repeats 3 -o digits

The answer is λ_max and λ_min to 1 %, the trace to 5 % (19 times of 20) and the density within 0.5 % of the range in
Wasserstein-1 of a converged reference, for every part of the problem. The peers come with `pip install -e ".[peers]"`.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

BORN = time.time()  # before torch is imported, which a cold process pays for

SEEDS = 20  # repetitions that a setting is tried with; 19 must succeed
# (Lanczos steps, probes), by cost
DENSITIES = sorted(itertools.product((10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200), (1, 2, 4)), key=math.prod)
PRODUCTS = (6, 12, 18, 24, 30, 36, 48, 60, 72, 90, 120, 180, 240, 360)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["prepare", "reference", "search", "time", "answer"])
    parser.add_argument("--problem", choices=["resnet20", "digits", "resnet32"], default="digits")
    parser.add_argument("--contenders", default="all", help="comma-separated; the first is the unit of the ratios")
    parser.add_argument("--parts", help="comma-separated, such as class/0,all; every part by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, default=Path("runs/benchmarks"), help="frozen questions and references")
    parser.add_argument("--run", type=Path, help="prepare: folder of the training that made a ResNet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="time: OUTPUT.json and OUTPUT.md; answer: the file")
    arguments = parser.parse_args()
    if arguments.action == "time":
        take_turns(arguments)
        return
    import torch

    torch.set_num_threads(arguments.threads)
    {"prepare": prepare, "reference": reference, "search": search, "answer": answer}[arguments.action](arguments)


def prepare(arguments: argparse.Namespace) -> None:
    """Freeze the network and its images."""
    import questions

    question = questions.prepare(arguments.problem, arguments.cache, arguments.run)
    sizes = {part: len(index) for part, index in question.parts.items()}
    print(f"{arguments.problem}: {sum(p.numel() for p in question.model().parameters()):,} parameters, images {sizes}")


def reference(arguments: argparse.Namespace) -> None:
    """Converge every part that has no reference yet."""
    from questions import Question
    from references import converge

    question = Question.load(arguments.cache / f"{arguments.problem}.pt")
    problem = question.problem(arguments.device)
    # The small network affords float64 for everything, and so does a GPU.
    exact = arguments.problem == "digits" or arguments.device != "cpu"
    for part in _parts(arguments, question.parts):
        path = _reference_path(arguments, part)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Half as long where products are dear: 100 steps are four times what the density is asked for.
            length = {} if exact else {"steps": 100, "probes": 4}
            converge(question.restricted(problem, part), exact=exact, **length).save(path)
        found = _reference(arguments, part)
        print(
            f"{part}: λ {found.lambda_min:.5g} … {found.lambda_max:.5g}, trace {found.trace:.5g} "
            f"± {found.trace_error / abs(found.trace):.2%}, {len(found.outliers)} outliers; all eigenvalues at 0 would "
            f"be {found.of_a_point_mass:.3%} off in density; float32 products {found.rounding:.1e} off",
            flush=True,
        )


def search(arguments: argparse.Namespace) -> None:
    """The cheapest settings of every peer that succeed 19 times of 20 for every part.

    Searched on a matrix with the spectrum of the reference, where a product costs next to nothing.
    """
    from contenders import PEERS
    from questions import Question

    question = Question.load(arguments.cache / f"{arguments.problem}.pt")
    known = [_reference(arguments, part) for part in _parts(arguments, question.parts)]
    for name in _contenders(arguments):
        if name not in PEERS:
            continue
        peer = PEERS[name]
        trials = [_trial(peer, found) for found in known]
        chosen = _cheapest(DENSITIES, trials, lambda s, h, k, seed, p=peer: _density_met(p, s, h, k, seed))
        print(f"{name}: ends and density by (steps, probes) = {chosen}", flush=True)
        for method in peer.methods:
            if method == "hutchinson":
                chosen = max(_hutchinson_products(peer, handle, found) for handle, found in trials)
            else:
                chosen = _cheapest(
                    PRODUCTS, trials, lambda n, h, k, seed, p=peer, m=method: _trace_met(p, m, n, h, k, seed)
                )
            print(f"{name}: trace by {method} = {chosen} products", flush=True)


def _trial(peer: Any, known: Any) -> tuple[Any, Any]:
    """A peer's handle on the stand-in, and the reference with the stand-in's own trace, which interpolation moves."""
    multiply, trace = known.stand_in()
    return peer.wrap(known.dimension, multiply), dataclasses.replace(known, trace=trace)


def _cheapest(ladder: Iterable[Any], trials: list[Any], met: Callable[..., bool]) -> Any:
    """The first rung on which every part fails at most once; ``None`` if there is none."""
    for rung in ladder:
        for number, (handle, known) in enumerate(trials):
            failures = 0
            for seed in range(SEEDS):
                failures += not met(rung, handle, known, seed)
                if failures > 1:
                    break
            if failures > 1:
                trials.insert(0, trials.pop(number))  # the hardest part is asked first on the next rung
                break
        else:
            return rung
    return None


def _density_met(peer: Any, setting: tuple[int, int], handle: Any, known: Any, seed: int) -> bool:
    from contenders import Settings

    met = known.errors(peer.answer(handle, known.dimension, Settings(*setting, peer.methods[0], 1), seed)).met
    return bool(met["ends"] and met["density"])


def _trace_met(peer: Any, method: str, products: int, handle: Any, known: Any, seed: int) -> bool:
    return bool(abs(peer.trace(handle, method, products, seed) - known.trace) <= 0.05 * abs(known.trace))


def _hutchinson_products(peer: Any, handle: Any, known: Any) -> int:
    """Independent probes: the spread of single ones says how many make 5 % in 95 % of runs."""
    spread = statistics.stdev(peer.trace(handle, "hutchinson", 1, seed) for seed in range(10 * SEEDS))
    return math.ceil((1.96 * spread / (0.05 * known.trace)) ** 2)


def answer(arguments: argparse.Namespace) -> None:
    """One contender in this process: everything once from the start, and once more warm."""
    import torch
    from contenders import PEERS, SETTINGS, Landscape
    from questions import Question

    torch.set_num_threads(arguments.threads)
    question = Question.load(arguments.cache / f"{arguments.problem}.pt")
    (name,) = _contenders(arguments)
    parts = _parts(arguments, question.parts)
    if name in PEERS and arguments.problem not in SETTINGS[name]:
        raise SystemExit(
            f"no settings of {name} for {arguments.problem}: run `search`, then enter them in contenders.py"
        )
    ours = Landscape(question, arguments.device) if name == "landscape" else None
    rounds = []
    for turn in range(2):
        start = BORN if turn == 0 else time.time()
        answers = {}
        for part in parts:
            seed = arguments.seed + 1000 * turn
            if ours is not None:
                answers[part] = ours.answer(part, seed)
                continue
            samples = question.samples(part)
            model = question.model().to(arguments.device)
            handle = PEERS[name].open(model, *(t.to(arguments.device) for t in samples))
            size = sum(p.numel() for p in model.parameters())
            answers[part] = PEERS[name].answer(handle, size, SETTINGS[name][arguments.problem], seed)
        if arguments.device != "cpu":
            torch.cuda.synchronize()
        seconds = time.time() - start
        rounds.append((seconds, answers))
    result = {
        "contender": name,
        "cold": rounds[0][0],
        "warm": rounds[1][0],
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "errors": [
            {part: dataclasses.asdict(_reference(arguments, part).errors(given)) for part, given in answers.items()}
            for _, answers in rounds
        ],
        "products": sum(given.products for given in rounds[0][1].values()),
    }
    text = json.dumps(result, indent=1)
    if arguments.output:
        arguments.output.write_text(text)
    else:
        print(text)


def take_turns(arguments: argparse.Namespace) -> None:
    """Every contender in a process of its own, in turns, and the medians of what they took."""
    names = _contenders(arguments)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for repeat in range(arguments.repeats):
        # Another one begins every time, so that nobody always runs on the coolest or the busiest machine.
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            results[name].append(_in_own_process(arguments, name, repeat))
            last = results[name][-1]
            print(f"{repeat + 1}/{arguments.repeats} {name}: cold {last['cold']:.1f} s, warm {last['warm']:.1f} s")
    table = _table(arguments, names, results)
    print(table)
    if arguments.output:
        arguments.output.with_suffix(".json").write_text(json.dumps(results, indent=1))
        arguments.output.with_suffix(".md").write_text(table)


def _in_own_process(arguments: argparse.Namespace, name: str, repeat: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "answer.json"
        words = [sys.executable, __file__, "answer", "--contenders", name, "-o", str(output)]
        for flag in ("problem", "threads", "device", "cache", "parts"):
            if (value := getattr(arguments, flag)) is not None:
                words += [f"--{flag}", str(value)]
        threads = {"OMP_NUM_THREADS": str(arguments.threads), "MKL_NUM_THREADS": str(arguments.threads)}
        words += ["--seed", str(arguments.seed + repeat)]
        subprocess.run(words, check=True, env={**os.environ, **threads})
        result: dict[str, Any] = json.loads(output.read_text())
        return result


def _table(arguments: argparse.Namespace, names: list[str], results: dict[str, list[dict[str, Any]]]) -> str:
    unit = results[names[0]]
    lines = [
        f"{arguments.problem}, {arguments.repeats} repetitions in turns, {arguments.threads} threads, "
        f"{arguments.device}, {platform.processor() or platform.machine()}",
        "",
        "| | cold, s | warm, s | cold / ours | warm / ours | products | ends met | trace met | density met | largest "
        "error of ends, trace, density, where the curvature lies | peak GB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        mine = results[name]
        columns = [f"{statistics.median(r[key] for r in mine):.1f}" for key in ("cold", "warm")] + [
            f"{statistics.median(r[key] / u[key] for r, u in zip(mine, unit, strict=True)):.2f}"
            for key in ("cold", "warm")
        ]
        errors = [error for r in mine for turn in r["errors"] for error in turn.values()]
        met = [_met(error) for error in errors]
        shares = [f"{sum(m[what] for m in met)}/{len(met)}" for what in ("ends", "trace", "density")]
        worst = ", ".join(
            f"{max(max(e[key] for key in keys) for e in errors):.2%}"
            for keys in (("lambda_min", "lambda_max"), ("trace",), ("density",), ("mass",))
        )
        peak = max(r["peak_gb"] for r in mine)
        lines.append(f"| {name} | {' | '.join(columns)} | {mine[0]['products']} | {' | '.join(shares)} | {worst} | "
                     f"{peak:.2f} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def _met(error: dict[str, float]) -> dict[str, bool]:
    from references import Errors

    return Errors(**error).met


def _contenders(arguments: argparse.Namespace) -> list[str]:
    from contenders import CONTENDERS

    if arguments.contenders == "all":
        return list(CONTENDERS)
    names = arguments.contenders.split(",")
    if unknown := [name for name in names if name not in CONTENDERS]:
        raise SystemExit(f"unknown contender '{unknown[0]}'; known: {', '.join(CONTENDERS)}")
    return names


def _parts(arguments: argparse.Namespace, known: Iterable[str]) -> list[str]:
    return list(known) if arguments.parts is None else arguments.parts.split(",")


def _reference_path(arguments: argparse.Namespace, part: str) -> Path:
    return arguments.cache / "references" / f"{arguments.problem}-{part.replace('/', '-')}.npz"


def _reference(arguments: argparse.Namespace, part: str) -> Any:
    from references import Reference

    return Reference.load(_reference_path(arguments, part))


if __name__ == "__main__":
    main()
