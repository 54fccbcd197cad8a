"""Writes rules.yaml, the rules of deploy/prometheus/rules as the operator's PrometheusRule:

python deploy/kubernetes/monitoring/build.py
"""

from __future__ import annotations

from pathlib import Path

OUT = Path(__file__).with_name("rules.yaml")
RULES = Path(__file__).parents[2] / "prometheus" / "rules"
HEAD = """\
# Written by build.py from deploy/prometheus/rules.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: earlyfire
  labels: {release: kube-prometheus-stack}
spec:
  groups:
"""


def text() -> str:
    lines = [HEAD]
    for path in sorted(RULES.glob("*.yml")):
        body = path.read_text(encoding="utf-8").split("groups:\n", 1)[1]
        lines += [f"  {line}" if line.strip() else line for line in body.splitlines(keepends=True)]
    return "".join(lines)


if __name__ == "__main__":
    OUT.write_text(text(), encoding="utf-8")
    print(f"written: {OUT}")
