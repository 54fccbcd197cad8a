"""Writes the dashboards: python deploy/grafana/build.py

Plain dictionaries, in the order in which Grafana shows them; `dashboards/*.json` is what comes out
and what is provisioned. A process is one (job, instance). Only earlyfire_run_info knows a run's
name, so everything is joined with it (`of_run`), and a dashboard shows the runs that are chosen at
its top. Every value of the exporter that counts is 0 from the begin on, so that no panel is empty
for want of a first event; `no_value` says what is missing where something can be.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]

OUT = Path(__file__).with_name("dashboards")
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
NOT_RUNNING = "no run yet"
NOT_SCORED = "not scored yet"
PER_CAMERA = "only for small fleets"

GREEN, ORANGE, RED, BLUE, GREY = "green", "orange", "red", "blue", "gray"


CAMERAS_KNOW = '!="consume"'

# --- expressions ---------------------------------------------------------------------------------


def of_run(expression: str, role: str = "") -> str:
    """Those of the chosen runs. `role`: a matcher of run_info's roles run, cameras, consume."""
    also = f", role{role}" if role else ""
    return f'({expression} and on (job, instance) earlyfire_run_info{{run=~"$run"{also}}})'


def rate(series: str) -> str:
    return of_run(f"rate({series}[$__rate_interval])")


def total(series: str, by: str = "") -> str:
    return f"sum{_grouped(by)} ({of_run(series)})"


def most(series: str, by: str = "") -> str:
    return f"max{_grouped(by)} ({of_run(series)})"


def total_rate(series: str, by: str = "") -> str:
    return f"sum{_grouped(by)} ({rate(series)})"


def most_rate(series: str, by: str = "") -> str:
    return f"max{_grouped(by)} ({rate(series)})"


def _grouped(by: str) -> str:
    return f" by ({by})" if by else ""


def once(series: str) -> str:
    """Of what both halves of a run tell, the cameras' word; a watcher's where it is alone."""
    return f"sum ({of_run(series, CAMERAS_KNOW)}) or {total(series)}"


def quantile(q: float, histogram: str, by: str = "") -> str:
    grouped = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({grouped}) ({rate(histogram + '_bucket')}))"


def mean(histogram: str, by: str) -> str:
    above, below = rate(histogram + "_sum"), rate(histogram + "_count")
    return f"sum by ({by}) ({above}) / sum by ({by}) ({below})"


MODELS = '{engine=~"$engine", model=~"$model"}'
CAMERAS = '{camera=~"$camera"}'


# --- panels --------------------------------------------------------------------------------------


def panel(
    kind: str,
    title: str,
    description: str,
    *queries: tuple[str, str],
    unit: str = "short",
    width: int = 8,
    height: int = 8,
    no_value: str = NOT_RUNNING,
    options: Json | None = None,
    custom: Json | None = None,
    query: Json | None = None,
    overrides: list[Json] | None = None,
    **defaults: Any,
) -> Json:
    """`queries`: expression and legend each."""
    targets = [
        {
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": expression,
            "legendFormat": legend,
            "range": True,
            "refId": chr(ord("A") + number),
            **(query or {}),
        }
        for number, (expression, legend) in enumerate(queries)
    ]
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "noValue": no_value,
                **({"custom": custom} if custom else {}),
                **defaults,
            },
            "overrides": overrides or [],
        },
        "options": options or {},
        "gridPos": {"w": width, "h": height},
    }


def lines(title: str, description: str, *queries: tuple[str, str], **more: Any) -> Json:
    stacked = more.pop("stacked", False)
    return panel(
        "timeseries",
        title,
        description,
        *queries,
        min=0,
        options={
            "legend": {
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": True,
                "calcs": [],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        custom={
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 40 if stacked else 8,
            "showPoints": "never",
            "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        },
        **more,
    )


def number(title: str, description: str, *queries: tuple[str, str], **more: Any) -> Json:
    """The last value within the time that is looked at: it stays when the process has gone."""
    steps = more.pop("steps", [(None, BLUE)])
    return panel(
        "stat",
        title,
        description,
        *queries,
        width=more.pop("width", 4),
        height=more.pop("height", 4),
        options={
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "auto",
        },
        thresholds={
            "mode": "absolute",
            "steps": [{"value": value, "color": colour} for value, colour in steps],
        },
        **more,
    )


def colours(**by_name: str) -> list[Json]:
    return [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for name, colour in by_name.items()
    ]


def row(title: str) -> Json:
    return {
        "type": "row",
        "title": title,
        "collapsed": False,
        "panels": [],
        "gridPos": {"w": 24, "h": 1},
    }


def placed(panels: list[Json]) -> list[Json]:
    """From left to right, as many as fit; a line is as high as its highest panel."""
    x = y = line = 0
    for number_, one in enumerate(panels, 1):
        grid = one["gridPos"]
        if x + grid["w"] > 24:
            x, y, line = 0, y + line, 0
        grid.update(x=x, y=y)
        one["id"] = number_
        x, line = x + grid["w"], max(line, grid["h"])
    return panels


# --- dashboards ----------------------------------------------------------------------------------


def chooser(name: str, label: str, values: str) -> Json:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "query": {"query": values, "refId": "StandardVariableQuery"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "regex": "/.+/",
        "options": [],
    }


VARIABLES = [
    {
        "type": "datasource",
        "name": "datasource",
        "label": "Prometheus",
        "query": "prometheus",
        "current": {},
        "options": [],
        "regex": "",
    },
    chooser("run", "Run", "label_values(earlyfire_run_info, run)"),
    chooser("camera", "Camera", "label_values(earlyfire_camera_frames_total, camera)"),
    chooser("engine", "Engine", 'label_values(earlyfire_run_info{run=~"$run"}, engine)'),
    chooser("model", "Model", 'label_values(earlyfire_run_info{run=~"$run"}, model)'),
]


def marks(name: str, colour: str, expression: str, title: str) -> Json:
    """Points in a row become one region, as long as the expression holds."""
    return {
        "name": name,
        "datasource": SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": colour,
        "expr": expression,
        "step": "5s",
        "titleFormat": title,
        "tagKeys": "",
        "textFormat": "",
        "useValueForTime": False,
    }


ANNOTATIONS = [
    {
        "name": "Annotations & Alerts",
        "builtIn": 1,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "type": "dashboard",
    },
    marks(
        "Onset",
        ORANGE,
        most("increase(earlyfire_onsets_total[15s])") + " > 0",
        "a fire begins",
    ),
    marks(
        "Alarm",
        RED,
        total("increase(earlyfire_alarms_total[15s])", "kind") + " > 0",
        "alarm: {{kind}}",
    ),
    marks(
        "Fault",
        GREY,
        most("earlyfire_faults_active", "kind") + " > 0",
        "fault: {{kind}}",
    ),
]


def dashboard(name: str, about: str, span: str, panels: list[Json]) -> Json:
    return {
        "uid": f"earlyfire-{name}",
        "title": f"Earlyfire {name}",
        "description": about,
        "tags": ["earlyfire"],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": f"now-{span}", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "title": "Earlyfire",
                "tags": ["earlyfire"],
                "asDropdown": False,
                "icon": "external link",
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "tooltip": "",
                "url": "",
            }
        ],
        "templating": {"list": VARIABLES},
        "annotations": {"list": ANNOTATIONS},
        "panels": placed(panels),
    }


def fleet() -> Json:
    kinds = colours(true=GREEN, false=RED, unlocated=ORANGE, late="yellow", unknown=GREY)
    false_alarms = 'earlyfire_alarms_total{kind="false"}'
    frames_total = "earlyfire_camera_frames_total" + CAMERAS
    answers_total = "earlyfire_camera_answers_total" + CAMERAS
    interval = "earlyfire_camera_sampling_interval_seconds" + CAMERAS
    return dashboard(
        "fleet",
        "What the cameras send, what became of it, and which alarms came.",
        "30m",
        [
            number(
                "Cameras online",
                "Cameras whose last due frame was sent.",
                (once("earlyfire_cameras_online"), "online"),
                (once("earlyfire_cameras"), "of"),
                no_value=NOT_RUNNING,
            ),
            number(
                "Burning now",
                "Fires whose smoke is visible, once for every camera that sees it.",
                (once("earlyfire_fires_burning"), "burning"),
                steps=[(None, GREEN), (1, ORANGE)],
            ),
            number(
                "True alarms",
                "Alarms emitted whose box touches the smoke.",
                (total('earlyfire_alarms_total{kind="true"}'), "true"),
                steps=[(None, BLUE), (1, GREEN)],
            ),
            number(
                "False alarms",
                "Before the onset, after the end, or where nothing burns.",
                (total(false_alarms), "false"),
                steps=[(None, GREEN), (1, RED)],
            ),
            number(
                "Early-Fire Score",
                "0 to 100, once the run is scored.",
                (most("earlyfire_early_fire_score", "instance"), "{{instance}}"),
                no_value=NOT_SCORED,
                decimals=1,
                steps=[(None, RED), (50, ORANGE), (75, GREEN)],
            ),
            number(
                "Frames without a fate",
                "Scheduled minus told. While the run plays some are under way; at its end it is 0.",
                ('sum(run:earlyfire_unaccounted_frames:difference{run=~"$run"})', "frames"),
                no_value="needs the recording rules",
            ),
            row("Frames"),
            lines(
                "Frames a second",
                "Due, sent and received. Received below sent is lost or on its way.",
                (total_rate("earlyfire_frames_scheduled_total"), "scheduled"),
                (total_rate("earlyfire_frames_published_total"), "published"),
                (total_rate("earlyfire_frames_received_total"), "received"),
                unit="cps",
            ),
            lines(
                "What became of them",
                "Each frame meets exactly one fate; dropped ones say why.",
                (
                    total_rate("earlyfire_frames_fate_total", "fate, reason") + " > 0",
                    "{{fate}} {{reason}}",
                ),
                unit="cps",
                stacked=True,
            ),
            lines(
                "Waiting and under way",
                "Frames that wait for a look, and those that the engine looks at.",
                (total("earlyfire_mailbox_frames"), "waiting"),
                (total("earlyfire_inflight_requests"), "under way"),
            ),
            lines(
                "Silent cameras",
                "Cameras from which nothing came for longer; each line includes the next.",
                (total("earlyfire_cameras_silent", "over"), "over {{over}}"),
            ),
            lines(
                "Not sent, refused, dropped",
                "Frames that fell due and were not sent; payloads that were no frame of the "
                "run, or that were dropped before anybody read them.",
                (total_rate("earlyfire_frames_unsent_total", "reason"), "unsent: {{reason}}"),
                (total_rate("earlyfire_payloads_refused_total") + " or vector(0)", "refused"),
                (total_rate("earlyfire_transport_dropped_payloads_total"), "dropped"),
                unit="cps",
            ),
            lines(
                "Scripted faults",
                "Cameras inside a window of that kind: off or cut off by the scene, or a fault on "
                "purpose. What happens in a moment is drawn for 15 s.",
                (most("earlyfire_faults_active", "kind"), "{{kind}}"),
            ),
            row("Fires and alarms"),
            lines(
                "Alarms so far",
                "Emitted alarms by what they were worth.",
                (total("earlyfire_alarms_total", "kind"), "{{kind}}"),
                overrides=kinds,
            ),
            lines(
                "Fires so far",
                "Onsets that have passed, and the fires among them that had an alarm.",
                (once("earlyfire_onsets_total"), "begun"),
                (total("earlyfire_fires_alarmed_total"), "with an alarm"),
            ),
            lines(
                "Candidates and alarms",
                "What the alarm policy was given and what it let through, false ones only.",
                (total('earlyfire_alarm_candidates_total{kind="false"}'), "candidates"),
                (total(false_alarms), "alarms"),
            ),
            number(
                "Terms of the score",
                "D earliness, F false alarms, C both, L localization, Q latency, K usable answers.",
                (most("earlyfire_score_term_ratio", "term"), "{{term}}"),
                unit="percentunit",
                width=12,
                no_value=NOT_SCORED,
            ),
            number(
                "Fires missed",
                "Fires without a located alarm.",
                (total("earlyfire_fires_missed"), "missed"),
                width=6,
                no_value=NOT_SCORED,
                steps=[(None, GREEN), (1, RED)],
            ),
            number(
                "False alarms a camera-day",
                "Few camera-hours say little: see the interval in the run's report.",
                (most("earlyfire_false_alarms_per_camera_day"), "a camera-day"),
                width=6,
                no_value=NOT_SCORED,
            ),
            row("One camera each (small fleets)"),
            panel(
                "state-timeline",
                "Smoke, says the last verdict",
                "By camera.",
                (most("earlyfire_camera_smoke" + CAMERAS, "camera"), "{{camera}}"),
                width=24,
                height=9,
                no_value=PER_CAMERA,
                options={
                    "mergeValues": True,
                    "showValue": "never",
                    "rowHeight": 0.8,
                    "alignValue": "left",
                    "legend": {
                        "displayMode": "list",
                        "placement": "bottom",
                        "showLegend": True,
                        "calcs": [],
                    },
                    "tooltip": {"mode": "single", "sort": "none"},
                },
                mappings=[
                    {
                        "type": "value",
                        "options": {
                            "0": {"text": "no smoke", "color": GREEN, "index": 0},
                            "1": {"text": "smoke", "color": RED, "index": 1},
                        },
                    }
                ],
            ),
            lines(
                "Since the last frame",
                "Seconds since the camera's newest frame came.",
                (
                    "max by (camera) (time() - "
                    f"{of_run('earlyfire_camera_last_frame_timestamp_seconds' + CAMERAS)})",
                    "{{camera}}",
                ),
                unit="s",
                no_value=PER_CAMERA,
            ),
            lines(
                "Between two looks",
                "Scenario seconds; shorter under suspicion.",
                (most(interval, "camera"), "{{camera}}"),
                unit="s",
                no_value=PER_CAMERA,
            ),
            lines(
                "Latency",
                "From capture to answer, of the camera's last answer.",
                (most("earlyfire_camera_latency_seconds" + CAMERAS, "camera"), "{{camera}}"),
                unit="s",
                no_value=PER_CAMERA,
            ),
            lines(
                "Frames and answers a second",
                "Frames that came and valid answers, by camera.",
                (total_rate(frames_total, "camera"), "{{camera}} frames"),
                (total_rate(answers_total, "camera"), "{{camera}} answers"),
                unit="cps",
                width=12,
                no_value=PER_CAMERA,
            ),
            lines(
                "Alarms so far, by camera",
                "Emitted alarms.",
                (total("earlyfire_camera_alarms_total" + CAMERAS, "camera"), "{{camera}}"),
                width=12,
                no_value=PER_CAMERA,
            ),
        ],
    )


def latency() -> Json:
    whole = "earlyfire_end_to_end_latency_seconds"
    ttfd = "earlyfire_time_to_first_detection_seconds"

    def over_all(q: float) -> str:
        within = of_run(f"rate({whole}_bucket[$__range])")
        return f"histogram_quantile({q}, sum by (le) ({within}))"

    exemplars = {"exemplar": True}
    return dashboard(
        "latency",
        "From a frame's capture to its answer, and where the time goes.",
        "30m",
        [
            *(
                number(
                    f"p{round(100 * q)} from capture to answer",
                    "Of all answers within the time that is looked at, within a bucket's accuracy.",
                    (over_all(q), f"p{round(100 * q)}"),
                    unit="s",
                    width=6,
                    steps=[(None, GREEN), (1, ORANGE), (5, RED)],
                    no_value="no answer yet",
                )
                for q in (0.5, 0.95, 0.99)
            ),
            number(
                "Clocks that disagree",
                "Answers before their capture; their latency is not known and not counted.",
                (total("earlyfire_clock_skewed_frames_total"), "answers"),
                width=6,
                steps=[(None, GREEN), (1, RED)],
            ),
            panel(
                "heatmap",
                "Capture to answer",
                "Answers a second in each bucket.",
                (total_rate(whole + "_bucket", "le"), "{{le}}"),
                width=16,
                height=9,
                no_value="no answer yet",
                query={"format": "heatmap", **exemplars},
                options={
                    "calculate": False,
                    "cellGap": 1,
                    "cellValues": {"unit": "cps"},
                    "color": {
                        "mode": "scheme",
                        "scheme": "Oranges",
                        "exponent": 0.5,
                        "fill": "dark-orange",
                        "reverse": False,
                        "scale": "exponential",
                        "steps": 64,
                    },
                    "exemplars": {"color": "rgba(255,0,255,0.7)"},
                    "filterValues": {"le": 1e-9},
                    "legend": {"show": True},
                    "rowsFrame": {"layout": "auto"},
                    "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": False},
                    "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"},
                },
            ),
            lines(
                "Quantiles",
                "The objective of the alert is 5 s for p95. Points are single frames.",
                *((quantile(q, whole), f"p{round(100 * q)}") for q in (0.5, 0.95, 0.99)),
                unit="s",
                height=9,
                query=exemplars,
            ),
            row("Where the time goes"),
            lines(
                "Mean by stage",
                "send: due to sent; transit: to arrival; wait: to request; infer: to answer.",
                (mean("earlyfire_stage_duration_seconds", "stage"), "{{stage}}"),
                unit="s",
                stacked=True,
            ),
            lines(
                "p95 by stage",
                "Quantiles do not add up.",
                (quantile(0.95, "earlyfire_stage_duration_seconds", "stage"), "{{stage}}"),
                unit="s",
            ),
            lines(
                "Decided and answered (p95)",
                "A verdict is decided at the token that settles it; the box comes after.",
                (quantile(0.95, "earlyfire_decision_duration_seconds"), "decided"),
                (quantile(0.95, "earlyfire_inference_duration_seconds"), "answered"),
                unit="s",
            ),
            row("Our own part"),
            lines(
                "Replay lateness",
                "From the instant a frame was due to its hand-over.",
                (quantile(0.5, "earlyfire_replay_lateness_seconds"), "p50"),
                (quantile(0.99, "earlyfire_replay_lateness_seconds"), "p99"),
                unit="s",
            ),
            lines(
                "Event loop lag",
                "How late a timer of one second comes (p99), by process.",
                (quantile(0.99, "earlyfire_event_loop_lag_seconds", "instance"), "{{instance}}"),
                unit="s",
            ),
            lines(
                "Between two looks at a camera",
                "Scenario seconds.",
                (quantile(0.5, "earlyfire_sampling_interval_seconds"), "p50"),
                (quantile(0.95, "earlyfire_sampling_interval_seconds"), "p95"),
                unit="s",
            ),
            row("Time to first detection"),
            panel(
                "bargauge",
                "Fires detected within",
                "Scenario seconds from the onset; each bar includes the ones before it.",
                (
                    total("earlyfire_time_to_first_detection_seconds_bucket", "le"),
                    "{{le}} s",
                ),
                width=16,
                height=9,
                no_value=NOT_SCORED,
                query={"format": "heatmap"},
                options={
                    "displayMode": "basic",
                    "orientation": "horizontal",
                    "showUnfilled": True,
                    "valueMode": "color",
                    "namePlacement": "auto",
                    "sizing": "auto",
                    "minVizWidth": 8,
                    "minVizHeight": 16,
                    "maxVizHeight": 300,
                    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                    "legend": {
                        "displayMode": "list",
                        "placement": "bottom",
                        "showLegend": False,
                        "calcs": [],
                    },
                },
                min=0,
            ),
            number(
                "Mean, of detected fires",
                "Scenario seconds; missed fires are not in it.",
                (
                    f"{total(ttfd + '_sum')} / {total(ttfd + '_count')}",
                    "mean",
                ),
                unit="s",
                width=8,
                height=9,
                no_value=NOT_SCORED,
            ),
        ],
    )


def engine() -> Json:
    requests = "earlyfire_inference_requests_total" + MODELS
    visual = "earlyfire_visual_tokens_total" + MODELS
    by = "engine, model"

    def of_worker(name: str) -> str:
        return f"rate(earlyfire_worker_{name}[$__rate_interval])"

    def p95(name: str) -> str:
        return f"histogram_quantile(0.95, sum by (le) ({of_worker(name + '_seconds_bucket')}))"

    no_worker = "no worker is scraped"
    hits = 'prefix_cache_total{result="hit"}'
    return dashboard(
        "engine",
        "What was asked of the model, what came back, its cost in tokens; the worker behind it.",
        "30m",
        [
            lines(
                "Requests a second by outcome",
                "bad_json: an answer of no use. All but answered and bad_json are engine errors.",
                (total_rate(requests, "outcome"), "{{outcome}}"),
                unit="cps",
                stacked=True,
            ),
            lines(
                "Share of bad_json and of errors",
                "Over five minutes. From 5 % on the score sinks and the alerts fire.",
                (most("engine:earlyfire_bad_json:share_5m" + MODELS, by), "{{model}} bad_json"),
                (most("engine:earlyfire_engine_errors:share_5m" + MODELS, by), "{{model}} errors"),
                unit="percentunit",
                no_value="needs the recording rules",
            ),
            lines(
                "Duration of a request",
                "From a frame's request to its settled answer or failure.",
                (quantile(0.5, "earlyfire_inference_duration_seconds", by), "{{model}} p50"),
                (quantile(0.95, "earlyfire_inference_duration_seconds", by), "{{model}} p95"),
                unit="s",
            ),
            lines(
                "Requests at a time",
                "Under way, and how many may be; the limit is sought where it says auto.",
                (total("earlyfire_inflight_requests"), "under way"),
                (total("earlyfire_concurrency_limit"), "limit"),
            ),
            lines(
                "Frames that wait for a look",
                "One a camera at most, the freshest.",
                (total("earlyfire_mailbox_frames"), "waiting"),
            ),
            lines(
                "Requests by purpose",
                "Verdicts, second looks at a crop, explanations.",
                (total_rate(requests, "purpose"), "{{purpose}}"),
                unit="cps",
            ),
            row("Tokens"),
            lines(
                "Visual tokens a second",
                "What was sent, and what may be spent where there is a limit.",
                (total_rate("earlyfire_visual_tokens_total" + MODELS, "purpose"), "{{purpose}}"),
                (total("earlyfire_token_budget_tokens_per_second"), "granted"),
                unit="cps",
            ),
            lines(
                "Visual tokens a request",
                "256 to 1280 unless the scenario says otherwise.",
                (
                    f"{total_rate(visual, by)} / {total_rate(requests, by)}",
                    "{{model}}",
                ),
            ),
            lines(
                "The budget",
                "Spent of late over granted; the share of time in which frames waited for tokens.",
                (most("earlyfire_token_budget_utilization_ratio"), "spent of granted"),
                (most_rate("earlyfire_token_budget_waited_seconds_total"), "waited"),
                unit="percentunit",
            ),
            lines(
                "Prompt and output tokens a second",
                "As the server counts them; 0 where it does not.",
                (total_rate("earlyfire_prompt_tokens_total" + MODELS), "prompt"),
                (total_rate("earlyfire_output_tokens_total" + MODELS), "output"),
                unit="cps",
                width=12,
            ),
            number(
                "Visual tokens so far",
                "By model.",
                (total("earlyfire_visual_tokens_total" + MODELS, by), "{{model}}"),
                width=12,
                height=8,
            ),
            row("The worker (engine hf)"),
            number(
                "Workers ready",
                "Workers that take requests.",
                ("sum(earlyfire_worker_ready)", "ready"),
                ("count(earlyfire_worker_ready)", "of"),
                no_value=no_worker,
                width=4,
                height=8,
            ),
            lines(
                "Where a request's time goes (p95)",
                "Preprocessing, waiting, the pass over the prompts, what came after it.",
                (p95("preprocess"), "preprocess"),
                (p95("queue"), "queue"),
                (p95("prefill"), "prefill"),
                (p95("decode"), "decode"),
                unit="s",
                no_value=no_worker,
                width=10,
            ),
            lines(
                "Requests by outcome",
                "Of the worker, all its clients together.",
                (
                    f"sum by (outcome) ({of_worker('requests_total')})",
                    "{{outcome}}",
                ),
                unit="cps",
                no_value=no_worker,
                width=10,
            ),
            lines(
                "Requests together",
                "Mean rows of a batch, and how many it may have.",
                (
                    f"sum({of_worker('batch_rows_sum')}) / sum({of_worker('batch_rows_count')})",
                    "rows",
                ),
                ("max(earlyfire_worker_batch_row_limit)", "limit"),
                no_value=no_worker,
                width=6,
            ),
            lines(
                "Before and with the model",
                "Requests.",
                ("sum(earlyfire_worker_waiting_requests)", "before it"),
                ("sum(earlyfire_worker_inflight_requests)", "with it"),
                no_value=no_worker,
                width=6,
            ),
            lines(
                "Tokens a second",
                "forced: written by the grammar, not by the model.",
                (f"sum by (kind) ({of_worker('tokens_total')})", "{{kind}}"),
                unit="cps",
                no_value=no_worker,
                width=6,
            ),
            lines(
                "Instructions found in the cache",
                "Share of prompts.",
                (
                    f"sum({of_worker(hits)}) / sum({of_worker('prefix_cache_total')})",
                    "hits",
                ),
                unit="percentunit",
                no_value=no_worker,
                width=6,
            ),
            lines(
                "Memory of the GPU",
                "By kind.",
                ("sum by (kind) (earlyfire_worker_memory_bytes)", "{{kind}}"),
                unit="bytes",
                no_value="no GPU",
                width=12,
            ),
            lines(
                "Given up",
                "Batches that did not fit into memory; rows whose client had gone.",
                ("sum(earlyfire_worker_oom_splits_total)", "batches split"),
                ("sum(earlyfire_worker_dropped_rows_total)", "rows dropped"),
                no_value=no_worker,
                width=12,
            ),
        ],
    )


def soak() -> Json:
    lost = 'earlyfire_frames_fate_total{fate="lost"}'
    return dashboard(
        "soak",
        "Hours and days: does anything grow, slow down or get lost?",
        "6h",
        [
            number(
                "Scenario time",
                "Scenario seconds since the run began.",
                (most("earlyfire_scenario_time_seconds"), "played"),
                unit="s",
            ),
            number(
                "Speed",
                "Scenario seconds a wall second.",
                (most("earlyfire_speed_ratio"), "speed"),
                unit="none",
            ),
            number(
                "Frames scheduled",
                "Since the run began.",
                (total("earlyfire_frames_scheduled_total"), "frames"),
            ),
            number(
                "Frames lost",
                "Sent and never seen, or while nobody watched.",
                (total(lost), "frames"),
                steps=[(None, GREEN), (1, ORANGE)],
            ),
            number(
                "Faults of the ledger",
                "Frames without a fate, with two, or that nobody sent; known once it is scored.",
                (total("earlyfire_ledger_faulty_frames"), "frames"),
                no_value=NOT_SCORED,
                steps=[(None, GREEN), (1, RED)],
            ),
            number(
                "Processes",
                "That play or watch now, of those that are scraped.",
                (total("earlyfire_run_playing"), "playing"),
                (f"count({of_run('earlyfire_run_playing')})", "of"),
            ),
            row("Processes"),
            lines(
                "Memory",
                "Resident, by process; pictures made ahead may take 384 MB of it.",
                (of_run("process_resident_memory_bytes"), "{{job}} {{instance}}"),
                unit="bytes",
                width=6,
            ),
            lines(
                "CPU",
                "Cores busy, by process.",
                (rate("process_cpu_seconds_total"), "{{job}} {{instance}}"),
                unit="none",
                width=6,
            ),
            lines(
                "Open files",
                "Sockets among them.",
                (of_run("process_open_fds"), "{{job}} {{instance}}"),
                width=6,
            ),
            lines(
                "Garbage collections a second",
                "Of the oldest generation.",
                (rate('python_gc_collections_total{generation="2"}'), "{{job}} {{instance}}"),
                unit="cps",
                width=6,
            ),
            row("Does it slow down?"),
            lines(
                "p95 from capture to answer",
                "Over five minutes.",
                (of_run("instance:earlyfire_end_to_end_latency_seconds:p95_5m"), "{{instance}}"),
                unit="s",
                no_value="needs the recording rules",
            ),
            lines(
                "p99 of the replay's lateness",
                "Over five minutes.",
                (of_run("instance:earlyfire_replay_lateness_seconds:p99_5m"), "{{instance}}"),
                unit="s",
                no_value="needs the recording rules",
            ),
            lines(
                "Waiting for tokens",
                "Share of the last five minutes in which frames waited for the budget.",
                (of_run("instance:earlyfire_token_budget_waited:share_5m"), "{{instance}}"),
                unit="percentunit",
                no_value="needs the recording rules",
            ),
            row("Does anything get lost?"),
            lines(
                "Lost frames a second",
                "gap: the number is missing. consumer_down: nobody watched.",
                (total_rate(lost, "reason"), "{{reason}}"),
                unit="cps",
                width=6,
            ),
            lines(
                "Frames without a fate",
                "Scheduled minus told, by run. It stays small while the run plays, and ends at 0.",
                ('run:earlyfire_unaccounted_frames:difference{run=~"$run"}', "{{run}}"),
                width=6,
                no_value="needs the recording rules",
            ),
            lines(
                "Broker",
                "Reconnects, duplicates and payloads dropped before they were read.",
                (total("earlyfire_transport_reconnects_total"), "reconnects"),
                (total("earlyfire_frames_duplicate_total"), "duplicates"),
                (total("earlyfire_transport_dropped_payloads_total"), "dropped"),
                width=6,
            ),
            lines(
                "Bytes a second",
                "Of the frames that were sent.",
                (total_rate("earlyfire_published_bytes_total"), "sent"),
                unit="Bps",
                width=6,
            ),
        ],
    )


DASHBOARDS = {"fleet": fleet, "latency": latency, "engine": engine, "soak": soak}


def text(name: str) -> str:
    return json.dumps(DASHBOARDS[name](), indent=1, sort_keys=False) + "\n"


if __name__ == "__main__":
    for name in DASHBOARDS:
        (OUT / f"{name}.json").write_text(text(name), encoding="utf-8")
        print(f"written: {OUT / name}.json")
