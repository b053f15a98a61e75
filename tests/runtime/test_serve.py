"""What Ray's words about an application mean. The builders themselves are tested end to end."""

import pytest
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
)

from runtime.availability import Condition
from runtime.serve import condition_of

PROBLEM = "registry/acme--x.yaml: scaling_config: no place"
OURS = f"traceback\nruntime.errors.ConfigError: {PROBLEM}"
ASLEEP = Condition("scaled_to_zero", "it has scaled to zero, and starts now")


@pytest.mark.parametrize(
    ("status", "deployment", "replicas", "message", "expected"),
    [
        ("RUNNING", "HEALTHY", {"RUNNING": 1}, "", Condition("ready")),
        ("DEPLOYING", "UPDATING", {"RUNNING": 1, "STARTING": 1}, "", Condition("ready")),
        ("UNHEALTHY", "UNHEALTHY", {"RUNNING": 1}, "one is gone", Condition("ready")),
        ("RUNNING", "HEALTHY", {}, "", ASLEEP),
        ("RUNNING", "HEALTHY", {"RUNNING": 0}, "", ASLEEP),
        ("RUNNING", "DOWNSCALING", {"STOPPING": 1}, "", ASLEEP),
        ("RUNNING", "UPSCALING", {"STARTING": 1}, "", Condition("starting", "a replica starts")),
        ("DEPLOYING", "UPDATING", {"STARTING": 1}, "", Condition("starting", "DEPLOYING")),
        ("DEPLOY_FAILED", "DEPLOY_FAILED", {}, OURS, Condition("failed", f"DEPLOY_FAILED: {PROBLEM}")),
        ("UNHEALTHY", "UNHEALTHY", {"STOPPING": 1}, "died\nmore", Condition("starting", "UNHEALTHY: died")),
        ("DELETING", "UPDATING", {"STOPPING": 1}, "", Condition("failed", "DELETING")),
    ],
)
def test_the_condition_of_an_application(status, deployment, replicas, message, expected) -> None:
    trigger = DeploymentStatusTrigger.UNSPECIFIED
    overview = DeploymentStatusOverview(DeploymentStatus(deployment), trigger, replicas, message)
    application = ApplicationStatusOverview(ApplicationStatus(status), "", 0, {"Model": overview})
    assert condition_of(application) == expected
