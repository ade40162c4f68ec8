"""How a labeller's answers suffer from a model that prefers the first picture, and how many it gives in a second.

    python -m benchmarks.vlm_labels debias        # one order or both, a preference for the first of 0 or 20 points
    python -m benchmarks.vlm_labels drawing       # what a picture takes, of an episode that was drawn before or not
    python -m benchmarks.vlm_labels throughput    # against a server that takes 20 ms, with what takes the time

Answers are those of a **simulated judge** (simulated_judge.py), through the real client, judges, pictures, transcript
and store (`python -m pbrl.label.vlm`), about single frames of data=mixed on Meta-World's drawer-open. An answer is
right where it prefers the frame of the higher true reward. Writes `vlm_debias.jsonl`, `vlm_drawing.jsonl`
and `vlm_throughput.jsonl` in `benchmarks/results`, and prints a table in Markdown.
"""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["debias", "drawing", "throughput"])
    study = parser.parse_args().study
    from benchmarks import vlm_labelling  # not above: the processes that draw import this module once more

    vlm_labelling.FOLDER.mkdir(parents=True, exist_ok=True)
    studies = {"debias": vlm_labelling.debias, "drawing": vlm_labelling.drawing, "throughput": vlm_labelling.throughput}
    studies[study]()


if __name__ == "__main__":
    main()
