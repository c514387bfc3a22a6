"""A Kubeflow pipeline with a step that trains on EKS: `eagleray launch --wait --rejoin`, and its exit code.

    pip install kfp==2.17.3
    python kubeflow_pipeline.py pipeline.yaml

docs/launch.md has the rest: the image, the rights of the step's account, how it is started.
"""

import sys

from kfp import compiler, dsl

# The program that the cluster's runs use too: docs/images.md. The one for CPUs is the smaller.
IMAGE = "acme/eagleray:0.1.0-cpu"

# `--rejoin`: the step is tried again where its pod was lost, and finds what it launched. In JSON an error is a result,
# too; it is shown in the step's log.
LAUNCH = """\
set -eu
printf '%s\\n' "$1" > "${TMPDIR:-/tmp}/run.yaml"
mkdir -p "$(dirname "$3")"
code=0
eagleray launch "${TMPDIR:-/tmp}/run.yaml" --wait --rejoin --timeout "$2" --format json > "$3" || code=$?
cat "$3" >&2
exit "$code"
"""


@dsl.container_component
def train(spec: str, timeout: str, result: dsl.OutputPath(dict)):
    """Launches a run and waits for its end; `result` names run, launch, digest and store."""
    return dsl.ContainerSpec(image=IMAGE, command=["sh", "-c", LAUNCH, "launch"], args=[spec, timeout, result])


@dsl.pipeline(name="train-on-eks")
def pipeline(spec: str, timeout: str = "3d") -> dict:
    """`spec` is the text of a run.yaml; the run that it names trains at most once to its end."""
    step = train(spec=spec, timeout=timeout)
    # A run that is complete is known by its launch, and not by what a step said of it once.
    step.set_caching_options(False)
    # Ten minutes of an API server that is away are within one try.
    step.set_retry(num_retries=3, backoff_duration="60s", backoff_factor=2.0)
    step.set_cpu_limit("500m").set_memory_limit("512Mi")
    return step.outputs["result"]


if __name__ == "__main__":
    compiler.Compiler().compile(pipeline, sys.argv[1] if len(sys.argv) > 1 else "pipeline.yaml")
