"""The JobSet that launch/gke.sh makes: only fields that exist, with the values asked for."""

import pytest
import yaml

from tests.launch.fake_tools import run_script

ASKED = {
  "name": "codec",
  "image": "us-docker.pkg.dev/p/r/audiolm_jax:1",
  "accelerator": "tpu-v5-lite-podslice",
  "topology": "4x8",
  "bucket": "sounds",
  "slices": "2",
  "max_restarts": "7",
  "service_account": "trainer",
}

# The fields of JobSet v1alpha2, batch/v1 Job and v1 Pod that are used: a type, a mapping of fields,
# or a list with the form of its items. `str: T` stands for any name. All of them are required.
POD = {
  "metadata": {"annotations": {str: str}},
  "spec": {
    "restartPolicy": str,
    "serviceAccountName": str,
    "terminationGracePeriodSeconds": int,
    "nodeSelector": {str: str},
    "containers": [
      {
        "name": str,
        "image": str,
        "command": [str],
        "args": [str],
        "ports": [{"containerPort": int}],
        "resources": {"requests": {str: int}, "limits": {str: int}},
        "volumeMounts": [{"name": str, "mountPath": str}],
      }
    ],
    "volumes": [{"name": str, "csi": {"driver": str, "volumeAttributes": {str: str}}}],
  },
}
JOB = {"spec": {"parallelism": int, "completions": int, "backoffLimit": int, "template": POD}}
JOBSET = {
  "apiVersion": str,
  "kind": str,
  "metadata": {"name": str, "annotations": {str: str}},
  "spec": {
    "failurePolicy": {"maxRestarts": int},
    "replicatedJobs": [{"name": str, "replicas": int, "template": JOB}],
  },
}


def faults(value, schema, place="jobset"):
  """Returns the places where `value` does not match the schema."""
  if isinstance(schema, list):
    if not isinstance(value, list) or not value:
      return [f"{place} is no list of something"]
    return [f for i, item in enumerate(value) for f in faults(item, schema[0], f"{place}[{i}]")]
  if isinstance(schema, dict):
    if not isinstance(value, dict):
      return [f"{place} is no mapping"]
    if str in schema:
      schema = dict.fromkeys(value, schema[str])
    wrong = [f"{place}.{name} is unknown" for name in value.keys() - schema.keys()]
    wrong += [f"{place}.{name} is missing" for name in schema.keys() - value.keys()]
    return wrong + [
      f
      for name in value.keys() & schema.keys()
      for f in faults(value[name], schema[name], f"{place}.{name}")
    ]
  return [] if type(value) is schema else [f"{place} is {value!r}"]


@pytest.fixture(scope="module")
def jobset():
  options = [f"--{name}={value}" for name, value in ASKED.items()]
  done = run_script("gke.sh", *options, "--dry_run", "--", "--gin.MODEL_DIR='/bucket/codec'")
  assert done.returncode == 0, done.stderr
  return yaml.safe_load(done.stdout)


def test_the_manifest_has_the_fields_of_a_jobset_and_no_others(jobset):
  assert faults(jobset, JOBSET) == []


def test_a_field_that_does_not_exist_and_a_wrong_type_are_found(jobset):
  job = jobset["spec"]["replicatedJobs"][0]
  damaged = {**job, "replica": 2, "replicas": "2"}
  del damaged["name"]
  spec = {**jobset["spec"], "replicatedJobs": [damaged]}
  assert sorted(faults({**jobset, "spec": spec}, JOBSET)) == [
    "jobset.spec.replicatedJobs[0].name is missing",
    "jobset.spec.replicatedJobs[0].replica is unknown",
    "jobset.spec.replicatedJobs[0].replicas is '2'",
  ]


def test_slices_and_hosts_are_those_asked_for(jobset):
  assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
  assert jobset["metadata"]["name"] == "codec"
  assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 7
  (slices,) = jobset["spec"]["replicatedJobs"]
  job = slices["template"]["spec"]
  assert slices["replicas"] == 2
  assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (8, 8, 0)
  pod = job["template"]["spec"]
  assert pod["restartPolicy"] == "Never" and pod["serviceAccountName"] == "trainer"
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
    "cloud.google.com/gke-tpu-topology": "4x8",
  }


def test_the_container_has_the_chips_of_its_host_and_the_bucket(jobset):
  pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
  (container,) = pod["containers"]
  assert container["image"] == ASKED["image"]
  assert container["args"] == ["--gin.MODEL_DIR='/bucket/codec'"]
  assert container["resources"] == {
    "requests": {"google.com/tpu": 4},
    "limits": {"google.com/tpu": 4},
  }
  (volume,) = pod["volumes"]
  assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/bucket"}]
  assert volume["csi"]["volumeAttributes"]["bucketName"] == "sounds"
