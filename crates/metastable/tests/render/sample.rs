//! Finished runs for looking at the renderings: the seed-42 twin, a sphere, a line, and a checkpoint of hostile strings.
//!
//! Nothing here is an oracle: observables are computed in the plainest way that gives the page realistic numbers.

use metastable::render::{AttentionMaps, Cloud, Display};
use serde_json::{Value, json};

/// numpy.random.RandomState(42).uniform(-1, 1, (20, 2)), the tokens of the experiment of theory section 3.1.
pub(crate) const SEED_42: [[f64; 2]; 20] = [
    [-0.250919762305275, 0.9014286128198323],
    [0.4639878836228102, 0.1973169683940732],
    [-0.687962719115127, -0.6880109593275947],
    [-0.8838327756636011, 0.7323522915498704],
    [0.2022300234864176, 0.416145155592091],
    [-0.9588310114083951, 0.9398197043239886],
    [0.6648852816008435, -0.5753217786434477],
    [-0.6363500655857988, -0.6331909802931324],
    [-0.39151551408092455, 0.04951286326447568],
    [-0.13610996271576847, -0.4175417196039162],
    [0.22370578944475894, -0.7210122786959163],
    [-0.4157107029295637, -0.2672763134126166],
    [-0.08786003156592814, 0.5703519227860272],
    [-0.6006524356832805, 0.02846887682722321],
    [0.18482913772408494, -0.9070991745600046],
    [0.21508970380287673, -0.6589517526254169],
    [-0.869896814029441, 0.8977710745066665],
    [0.9312640661491187, 0.6167946962329223],
    [-0.39077246165325863, -0.8046557719872323],
    [0.3684660530243138, -0.1196950125207974],
];

type Snapshot = Vec<Vec<f64>>;

/// Shares in [0, 1) by Weyl's equidistribution, enough to scatter points.
pub(crate) fn scatter(k: usize) -> f64 {
    (k as f64 * 0.754_877_666_246_692_7 + (k as f64 * 0.569_840_290_998_053_2).sin() * 0.5).rem_euclid(1.0)
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt()
}

/// Row-stochastic weights of the rescaled flow for V = diag(1, 1 - eps, ...).
fn weights(z: &Snapshot, rates: &[f64], t: f64) -> Vec<Vec<f64>> {
    let lead = (2.0 * t).min(600.0).exp();
    let logit =
        |a: &[f64], b: &[f64]| -> f64 { (0..a.len()).map(|k| a[k] * b[k] * (-2.0 * (1.0 - rates[k]) * t).exp()).sum() };
    z.iter()
        .map(|a| {
            let logits: Vec<f64> = z.iter().map(|b| logit(a, b)).collect();
            let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let raw: Vec<f64> = logits.iter().map(|l| ((l - most) * lead).exp()).collect();
            let sum: f64 = raw.iter().sum();
            raw.into_iter().map(|w| w / sum).collect()
        })
        .collect()
}

fn field(z: &Snapshot, rates: &[f64], t: f64, sphere: bool) -> Snapshot {
    let p = weights(z, rates, if sphere { 0.8 } else { t });
    (0..z.len())
        .map(|i| {
            let mean = |k: usize| (0..z.len()).map(|j| p[i][j] * z[j][k]).sum::<f64>();
            let mut v: Vec<f64> =
                (0..rates.len()).map(|k| rates[k] * (mean(k) - if sphere { 0.0 } else { z[i][k] })).collect();
            if sphere {
                let radial: f64 = v.iter().zip(&z[i]).map(|(a, b)| a * b).sum();
                v.iter_mut().zip(&z[i]).for_each(|(a, b)| *a -= radial * b);
            }
            v
        })
        .collect()
}

fn flow(start: &Snapshot, rates: &[f64], times: &[f64], sphere: bool) -> Vec<Snapshot> {
    const STEP: f64 = 0.02;
    let (mut z, mut t, mut saved) = (start.clone(), 0.0, Vec::new());
    for &end in times {
        while t < end - 1e-9 {
            let h = STEP.min(end - t);
            let ahead = |k: &Snapshot, h: f64| -> Snapshot {
                z.iter().zip(k).map(|(z, k)| z.iter().zip(k).map(|(z, k)| z + h * k).collect()).collect()
            };
            let middle = field(&ahead(&field(&z, rates, t, sphere), h / 2.0), rates, t + h / 2.0, sphere);
            z = ahead(&middle, h);
            t += h;
        }
        saved.push(z.clone());
    }
    saved
}

/// Single linkage at a radius; the label of a cluster is its least token.
fn linkage(z: &Snapshot, radius: f64) -> Vec<i64> {
    let mut labels: Vec<i64> = (0..z.len() as i64).collect();
    for i in 0..z.len() {
        for j in 0..i {
            let (a, b) = (labels[i].min(labels[j]), labels[i].max(labels[j]));
            if a != b && distance(&z[i], &z[j]) <= radius {
                labels.iter_mut().filter(|l| **l == b).for_each(|l| *l = a);
            }
        }
    }
    labels
}

fn distinct(labels: &[i64]) -> Vec<i64> {
    let mut all = labels.to_vec();
    all.sort_unstable();
    all.dedup();
    all
}

fn events(times: &[f64], rows: &[Vec<i64>]) -> Vec<Value> {
    let mut events = Vec::new();
    for (s, pair) in rows.windows(2).enumerate() {
        for into in distinct(&pair[1]) {
            let mut from: Vec<i64> =
                pair[0].iter().zip(&pair[1]).filter(|(_, new)| **new == into).map(|(old, _)| *old).collect();
            from.sort_unstable();
            from.dedup();
            if from.len() > 1 {
                events.push(json!({"time": times[s + 1], "kind": "merge", "from": from, "into": [into]}));
            }
        }
    }
    events
}

fn series(times: &[f64], run: &[Snapshot], rows: &[Vec<i64>], rescaled: bool) -> Value {
    let pairs = |z: &Snapshot, f: &dyn Fn(&[f64], &[f64]) -> f64| -> Vec<f64> {
        (0..z.len()).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| f(&z[i], &z[j])).collect()
    };
    let norm = |a: &[f64]| a.iter().map(|x| x * x).sum::<f64>().sqrt();
    let cosine = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>() / (norm(a) * norm(b));
    let fold = |f: &dyn Fn(&Snapshot) -> f64| run.iter().map(f).collect::<Vec<f64>>();
    let log_energy: Vec<f64> = run
        .iter()
        .zip(times)
        .map(|(z, t)| {
            let scale = if rescaled { (2.0 * t).min(500.0).exp() } else { 1.0 };
            let dots = pairs(z, &|a, b| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>() * scale);
            let most = dots.iter().copied().fold(0.0, f64::max);
            most + (dots.iter().map(|d| (d - most).exp()).sum::<f64>() / dots.len().max(1) as f64).ln()
        })
        .collect();
    let energy: Vec<Option<f64>> = log_energy.iter().map(|l| (*l < 700.0).then(|| l.exp())).collect();
    let sizes =
        |row: &Vec<i64>| distinct(row).iter().map(|l| row.iter().filter(|x| *x == l).count()).max().unwrap_or(0);
    json!({
        "t": times, "energy": energy, "log_energy": log_energy,
        "n_clusters": rows.iter().map(|r| distinct(r).len()).collect::<Vec<_>>(),
        "max_mass": rows.iter().map(|r| sizes(r) as f64 / r.len() as f64).collect::<Vec<_>>(),
        "mean_cosine": fold(&|z| { let c = pairs(z, &cosine); c.iter().sum::<f64>() / c.len() as f64 }),
        "min_cosine": fold(&|z| pairs(z, &cosine).into_iter().fold(1.0, f64::min)),
        "max_cosine": fold(&|z| pairs(z, &cosine).into_iter().fold(-1.0, f64::max)),
        "diameter": fold(&|z| pairs(z, &distance).into_iter().fold(0.0, f64::max)),
        "effective_rank": fold(&|z| 1.0 + 0.9 * pairs(z, &distance).into_iter().fold(0.0, f64::max) / 2.5),
        "something_unknown": run.iter().enumerate().map(|(s, _)| (s % 7 != 3).then_some((s as f64 * 0.1).sin())).collect::<Vec<_>>(),
    })
}

fn centre(z: &Snapshot, labels: &[i64], label: i64) -> Vec<f64> {
    let members: Vec<&Vec<f64>> = z.iter().zip(labels).filter(|(_, l)| **l == label).map(|(z, _)| z).collect();
    (0..z[0].len()).map(|k| members.iter().map(|z| z[k]).sum::<f64>() / members.len() as f64).collect()
}

fn clusters(z: &Snapshot, labels: &[i64], radius: f64) -> Value {
    let all = distinct(labels);
    json!({
        "count": all.len(), "radius": radius, "leaders": all,
        "labels": labels.iter().map(|l| all.iter().position(|x| x == l)).collect::<Vec<_>>(),
        "centers": all.iter().map(|l| centre(z, labels, *l)).collect::<Vec<_>>(),
        "sizes": all.iter().map(|l| labels.iter().filter(|x| *x == l).count()).collect::<Vec<_>>(),
    })
}

fn cloud(run: &[Snapshot], rates: &[f64], times: &[f64]) -> Cloud {
    let count = run[0].len();
    let levels = run
        .iter()
        .zip(times)
        .flat_map(|(z, t)| weights(z, rates, *t).into_iter().flatten().map(|w| (w.sqrt() * 255.0).round() as u8));
    Cloud {
        count,
        dim: run[0][0].len(),
        positions: run.iter().flatten().flatten().map(|x| *x as f32).collect(),
        attention: (count <= 64).then(|| AttentionMaps {
            side: count,
            levels: levels.collect(),
            rows: (0..count).map(|i| i.to_string()).collect(),
        }),
    }
}

struct Twin<'a> {
    title: &'a str,
    start: Snapshot,
    rates: [Vec<f64>; 2],
    end: f64,
    save: usize,
    sphere: bool,
}

/// The seed-42 twin: V = I against diag(1, 1 - 0.02).
pub(crate) fn seed_42() -> (Value, Display) {
    let start = SEED_42.iter().map(|x| x.to_vec()).collect();
    twin(&Twin {
        title: "Seed-42 tokens, V = I → diag(1, 1 − ε)",
        start,
        rates: [vec![1.0; 2], vec![1.0, 0.98]],
        end: 60.0,
        save: 121,
        sphere: false,
    })
}

/// Forty tokens on the unit sphere.
pub(crate) fn sphere() -> (Value, Display) {
    let point = |k: usize| {
        let (z, angle) = (1.6 * scatter(k) - 0.6, std::f64::consts::TAU * scatter(k + 1000));
        let r = (1.0 - z * z).sqrt();
        vec![r * angle.cos(), r * angle.sin(), z]
    };
    let rates = [vec![1.0, 1.0, 1.0], vec![1.0, 1.0, 0.7]];
    twin(&Twin {
        title: "Forty tokens on the sphere",
        start: (0..40).map(point).collect(),
        rates,
        end: 12.0,
        save: 61,
        sphere: true,
    })
}

/// Twelve tokens on a line.
pub(crate) fn line() -> (Value, Display) {
    let start = (0..12).map(|k| vec![2.0 * scatter(k) - 1.0]).collect();
    twin(&Twin {
        title: "Twelve tokens on a line",
        start,
        rates: [vec![1.0], vec![0.9]],
        end: 8.0,
        save: 41,
        sphere: false,
    })
}

/// Two thousand tokens in the plane that only drift, to try the speed of the page.
pub(crate) fn crowd() -> (Value, Display) {
    let start: Snapshot = (0..2000).map(|k| vec![2.0 * scatter(k) - 1.0, 2.0 * scatter(3 * k + 7) - 1.0]).collect();
    let (mut report, mut display) = seed_42();
    let draw = |pull: f64| -> Cloud {
        let at = |s: usize| {
            start.iter().enumerate().map(move |(i, x)| {
                let target = SEED_42[i % 5];
                let share = 1.0 - (-pull * s as f64 / 20.0).exp();
                [x[0] + share * (target[0] - x[0]), x[1] + share * (target[1] - x[1])]
            })
        };
        let positions = (0..121).flat_map(at).flatten().map(|x| x as f32).collect();
        Cloud { count: 2000, dim: 2, positions, attention: None }
    };
    (display.base, display.twin) = (draw(1.0), Some(draw(0.8)));
    let labels: Vec<Vec<i64>> =
        (0..121).map(|s| (0..2000i64).map(|i| if s < 40 { i } else { i % 5 }).collect()).collect();
    report["tokens"]["count"] = json!(2000);
    report["cluster_history"]["labels"] = json!(labels);
    report["twin"]["cluster_history"]["labels"] = json!(labels);
    (report, display)
}

fn twin(setup: &Twin) -> (Value, Display) {
    const RADIUS: f64 = 0.1;
    let times: Vec<f64> = (0..setup.save).map(|s| setup.end * s as f64 / (setup.save - 1) as f64).collect();
    let runs = setup.rates.each_ref().map(|rates| flow(&setup.start, rates, &times, setup.sphere));
    let rows = runs.each_ref().map(|run| run.iter().map(|z| linkage(z, RADIUS)).collect::<Vec<_>>());
    let last = setup.save - 1;
    let gaps: Vec<Vec<f64>> =
        (0..setup.save).map(|s| runs[0][s].iter().zip(&runs[1][s]).map(|(a, b)| distance(a, b)).collect()).collect();
    let most = |g: &Vec<f64>| g.iter().copied().fold(0.0, f64::max);
    let rms = |g: &Vec<f64>| (g.iter().map(|x| x * x).sum::<f64>() / g.len() as f64).sqrt();
    let away = |s: usize, from: &Snapshot, labels: &[i64]| {
        (0..from.len()).map(|i| distance(&runs[1][s][i], &centre(from, labels, labels[i]))).fold(0.0, f64::max)
    };
    let near_base: Vec<bool> = (0..setup.save).map(|s| away(s, &runs[0][last], &rows[0][last]) < RADIUS).collect();
    let near_own: Vec<bool> = (0..setup.save).map(|s| away(s, &runs[1][last], &rows[1][last]) < RADIUS).collect();
    let gathered = near_base.iter().position(|near| *near);
    let left = gathered.and_then(|a| (a..setup.save).find(|s| !near_base[*s]));
    let second = left.and_then(|a| (a..setup.save).find(|s| near_own[*s..].iter().all(|near| *near)));
    let found = |s: Option<usize>| json!({"value": s.map(|s| times[s] - 0.1), "bracket": s.map(|s| [times[s.max(1) - 1], times[s]])});
    let reach = setup.start.iter().map(|x| distance(x, &vec![0.0; x.len()])).fold(0.0, f64::max);
    let eps = setup.rates[0].iter().zip(&setup.rates[1]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let bound: Vec<Option<f64>> = times
        .iter()
        .map(|t| {
            let envelope = eps * reach * t.exp() * (reach * reach * ((2.0 * t).min(500.0).exp() - 1.0) * 0.5).exp();
            (*t > 0.0 && envelope < 1e290).then_some(envelope)
        })
        .collect();
    let cascade = if setup.sphere {
        Value::Null
    } else {
        json!({
            "radius": RADIUS, "slow_scale": eps, "final_clusters": [0], "source": "Slow-time cascade of theory section 2.2 [derived], exact as ε → 0.",
            "events": [
                {"slow_time": 0.5754637311, "release_time": 0.5754637311 / eps.max(1e-3), "from": [1], "into": [0], "merge_time": 0.5754637311 / eps.max(1e-3) + 2.46, "simulated_merge_time": 31.02, "tokens": [2, 7, 12, 15]},
                {"slow_time": 1.6792, "release_time": 83.96, "from": 2, "into": 0, "merge_time": 87.8, "simulated_merge_time": null, "tokens": [3]},
            ],
        })
    };
    let report = json!({
        "schema": 1, "job": "simulate", "title": setup.title,
        "summary": [
            format!("{} tokens in dimension {} followed to t = {}, without and with a LoRA update of the value matrix.", setup.start.len(), setup.start[0].len(), setup.end),
            format!("The base run ends in {} clusters at radius {RADIUS}, the LoRA run in {}.", distinct(&rows[0][last]).len(), distinct(&rows[1][last]).len()),
        ],
        "warnings": ["The envelope exceeds the diameter of the cloud for most of the run: it is proven, and it is not sharp."],
        "provenance": {"version": "0.1.0", "commit": "cfd94a8", "seed": 42, "machine": "x86_64-linux, 2 cores", "precision": "f64",
            "inputs": [{"path": "lora-twin.toml", "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}]},
        "config": {"seed": 42, "precision": "f64", "tokens": {"law": "uniform", "n": setup.start.len(), "d": setup.start[0].len()},
            "head": [{"query": "identity", "key": "identity", "value": "identity"}],
            "space": {"geometry": if setup.sphere { "sphere" } else { "euclidean" }, "coordinates": if setup.sphere { "plain" } else { "rescaled" }},
            "time": {"end": setup.end, "save": setup.save, "method": "tsit5", "rtol": 1e-9, "atol": 1e-12}, "lora": {"target": "value", "alpha": 1.0}},
        "axis": {"name": "time", "symbol": "t"},
        "tokens": {"count": setup.start.len(), "dim": setup.start[0].len(), "strings": null, "special": null},
        "projection": null,
        "attention": {"gamma": 0.5, "head": "head 0"},
        "stop": {"reason": "end_time", "time": setup.end},
        "solver": {"method": "tsit5", "steps": 1834, "rejected": 12, "evaluations": 11078},
        "clusters": clusters(&runs[0][last], &rows[0][last], RADIUS),
        "series": series(&times, &runs[0], &rows[0], !setup.sphere),
        "cluster_history": {"labels": rows[0], "events": events(&times, &rows[0])},
        "twin": {
            "stop": {"reason": "end_time", "time": setup.end}, "solver": {"method": "tsit5", "steps": 2010, "rejected": 20, "evaluations": 12180},
            "clusters": clusters(&runs[1][last], &rows[1][last], RADIUS),
            "series": series(&times, &runs[1], &rows[1], !setup.sphere),
            "cluster_history": {"labels": rows[1], "events": events(&times, &rows[1])},
            "cluster_time": found(gathered), "departure_time": found(left), "second_cluster_time": found(second),
            "max_distance": gaps.iter().map(most).fold(0.0, f64::max),
            "paired_distance": {"max": gaps.iter().map(most).collect::<Vec<_>>(), "rms": gaps.iter().map(rms).collect::<Vec<_>>()},
            "wasserstein2": gaps.iter().map(|g| 0.93 * rms(g)).collect::<Vec<_>>(),
            "bound": bound, "bound_name": if setup.sphere { "S1" } else { "S2" },
            "bound_source": "Envelope of theory section 2.1, a replacement bound with explicit constants [derived].", "bound_reason": null,
            "cascade": cascade,
        },
    });
    let clouds = [cloud(&runs[0], &setup.rates[0], &times), cloud(&runs[1], &setup.rates[1], &times)];
    let [base, second_cloud] = clouds;
    (report, Display { times, base, twin: Some(second_cloud), samples: None })
}

/// The token strings of a text that tries to break out of the page.
pub(crate) const HOSTILE: [&str; 33] = [
    "[CLS]",
    "<script>alert(1)</script>",
    "</script>",
    "<img src=x onerror=alert(1)>",
    "a",
    "cat",
    "sits",
    "out",
    "##side",
    "&lt;",
    "\"quoted\"",
    "'",
    "<!--",
    "-->",
    "]]>",
    "\u{202e}reversed",
    "\n",
    "\t",
    "",
    "日本語",
    "😀",
    "مرحبا",
    "{{script}}",
    "javascript:alert(1)",
    "e\u{301}",
    "|",
    "\\u003c",
    "the",
    "metastable",
    "clusters",
    "of",
    "tokens",
    "[SEP]",
];

/// A small encoder on the hostile text: seven layers (six blocks and the embedding), twelve heads.
pub(crate) fn inspect() -> (Value, Display) {
    const LAYERS: usize = 7;
    let n = HOSTILE.len();
    let position = |layer: usize, i: usize| {
        let pull = layer as f64 / 8.0;
        let side = if i.is_multiple_of(3) { 0.8 } else { -0.5 };
        let wander = |k: usize| 2.4 * scatter(i * 17 + k) - 1.2 + 0.15 * (layer as f64 + i as f64).sin();
        vec![wander(1) * (1.0 - pull) + side * pull * 1.4, wander(5) * (1.0 - pull) + side * pull * 0.6]
    };
    let run: Vec<Snapshot> = (0..LAYERS).map(|layer| (0..n).map(|i| position(layer, i)).collect()).collect();
    let times: Vec<f64> = (0..LAYERS).map(|l| l as f64).collect();
    let rows: Vec<Vec<i64>> = run.iter().map(|z| linkage(z, 0.28)).collect();
    let columns = series(&times, &run, &rows, false);
    let cosines = [0.0513, 0.1429, 0.1756, 0.2223, 0.2636, 0.3573, 0.4133];
    let layers: Vec<Value> = (0..LAYERS).map(|l| json!({
        "index": l, "mean_cosine": cosines[l], "n_clusters": columns["n_clusters"][l], "effective_rank": 21.4 - 1.9 * l as f64,
        "anisotropy": if l == 0 { Value::Null } else { json!(0.08 + 0.04 * l as f64) }, "energy": 1.0 + 0.2 * l as f64, "radius_mean": 6.0 + scatter(l),
        "gaussian_surrogate": if l == 0 { json!({"one_block": null, "composed": 0.0, "moved": null, "spread": 9.2}) } else { json!({"one_block": 5.0 + scatter(l), "composed": 5.0 + l as f64, "moved": 5.5, "spread": 9.0}) },
    })).collect();
    let heads: Vec<Value> = (0..6).flat_map(|l| (0..12).map(move |h| (l, h))).map(|(l, h)| {
        let k = l * 12 + h;
        let value = |m: usize| { let (r, a) = (1.6 * scatter(k * 5 + m) / (1.0 + 0.3 * m as f64), 3.0 * scatter(k + m)); [r * a.cos(), r * a.sin()] };
        let tops: Vec<[f64; 2]> = (0..2).flat_map(|m| { let [re, im] = value(m); [[re, im], [re, -im]] }).collect();
        json!({"layer": l, "head": h, "qk_rank": 32, "qk_stable_rank": 3.0 + 9.0 * scatter(k), "qk_norm": 4.0 + 6.0 * scatter(k + 9), "ov_norm": 1.0 + scatter(k + 4), "ov_eigenvalues_top": tops,
            "kv_head": h / 3, "regime": "turned_away", "effective_beta": 40.0 * scatter(k), "ov_gap": scatter(k + 2), "ov_eigenvalues": tops, "qk_singular_values": [2.0, 1.0, 0.0], "ov_singular_values": [1.0, 0.5, 0.1],
            "qk_by_distance": (0..4).map(|p| json!({"distance": p * p, "norm": 2.0 / f64::from(p + 1), "frobenius": 3.0 / f64::from(p + 1), "symmetric_share": null})).collect::<Vec<_>>()})
    }).collect();
    let mut series = columns;
    series["mean_cosine"] = json!(cosines);
    let report = json!({
        "schema": 1, "job": "inspect", "title": "all-MiniLM-L6-v2 on a hostile text <b>&</b>", "summary": ["33 tokens through 6 blocks; the mean cosine rises from 0.051 to 0.413.", "A token string is text: <script>alert('summary')</script>."],
        "warnings": [], "provenance": {"version": "0.1.0", "commit": "cfd94a8", "seed": 0, "machine": "x86_64-linux", "precision": "f32", "inputs": []},
        "config": {"prompt": "<script>alert(1)</script> </script>", "max_tokens": 256}, "axis": {"name": "layer", "symbol": "layer"},
        "tokens": {"count": n, "dim": 384, "strings": HOSTILE.as_slice(), "special": (0..n).map(|i| i == 0 || i == n - 1).collect::<Vec<_>>()},
        "projection": "The first two principal components of the last layer, 41 % of its variance.",
        "stop": {"reason": "end_time", "time": 6.0}, "solver": null, "clusters": clusters(&run[LAYERS - 1], &rows[LAYERS - 1], 0.28),
        "series": series, "cluster_history": {"labels": rows, "events": events(&times, &rows)}, "twin": null,
        "model": {"family": "bert", "layers": 6, "hidden": 384, "heads": 12, "kv_heads": 12, "vocab": 30522, "parameters": 22713216, "sha256": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"},
        "layers": layers, "heads": heads,
        "mean_field": {"beta": 1.0, "n": n, "tokens": "without special tokens", "time_per_layer": 0.2, "rms_residual": 0.04, "levels": (0..LAYERS).map(|l| json!({"index": l, "mean_cosine": cosines[l], "gamma": cosines[l] + 0.01, "residual": -0.01})).collect::<Vec<_>>()},
        "idealised": {"layer": 2, "head": 0, "config": "idealised/head.toml", "beta": 134.0, "time_per_layer": 1.0, "left_out": ["<b>the feed-forward layer</b>"], "levels": (2..LAYERS).map(|l| json!({"index": l, "time": l as f64 - 2.0, "mean_cosine": cosines[l], "mean_cosine_flow": 0.2, "rms_distance": 0.1 * l as f64, "wasserstein2": null})).collect::<Vec<_>>()},
        "adapter": {"verdict": "It moves <i>nothing</i>.", "layers": [], "heads": [], "scale_sweep": [], "module_rows": [{"name": "layer.0.query<script>", "status": "rank_deficient", "r": 8, "scale": 2.0, "gap": 1.0, "kappa": null, "kappa_balanced": null, "dora": false, "shape": [4, 4], "intruders": {"count": 1, "judged": 10}}]},
    });
    let mut base = cloud(&run, &[1.0, 1.0], &[0.4; LAYERS]);
    if let Some(maps) = &mut base.attention {
        maps.rows = HOSTILE.iter().map(|s| (*s).to_owned()).collect();
    }
    (report, Display { times, base, twin: None, samples: None })
}
