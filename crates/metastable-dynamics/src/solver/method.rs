//! The methods: their names, their orders, and the numbers of the short ones.

use serde::{Deserialize, Serialize};

use super::dop853::DOP853;
use super::tableau::{ErrorEstimate, Interpolant, Tableau};

/// An explicit Runge-Kutta method.
///
/// | method | order p | slopes a step | adaptive | dense output of order |
/// |---|---|---|---|---|
/// | Euler | 1 | 1 | no | 1 (linear) |
/// | Heun | 2 | 2 | no | 2 (cubic Hermite, limited by p) |
/// | Rk4 | 4 | 4 | no | 3 (cubic Hermite) |
/// | Tsit5 | 5 | 6 | yes | 4 |
/// | Dopri5 | 5 | 6 | yes | 4 |
/// | Dop853 | 8 | 12 | yes | 7 (three more slopes, taken when asked for) |
///
/// # References
/// - Rk4: Kutta (1901); Heun: the explicit trapezoidal rule, Heun (1900).
/// - Tsit5: Tsitouras (2011), "Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying
///   assumption", Computers & Mathematics with Applications 62, 770-775 [code: compared with diffrax's Tsit5].
/// - Dopri5: Dormand, Prince (1980), J. Comp. Appl. Math. 6, 19-26; dense output: Hairer, Norsett, Wanner (1993),
///   section II.6 and `dopri5.f` [code: compared with SciPy's RK45].
/// - Dop853: Hairer, Norsett, Wanner (1993), sections II.5, II.10 and `dop853.f` [code: from SciPy's DOP853].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Explicit Euler: y_new = y + h f(t, y); with step 1 the residual layer itself.
    Euler,
    /// The explicit trapezoidal rule.
    Heun,
    /// The classical method of order 4.
    Rk4,
    /// Tsitouras' pair 5(4).
    Tsit5,
    /// Dormand and Prince's pair 5(4).
    Dopri5,
    /// Dormand and Prince's method of order 8 with Hairer's estimates of orders 5 and 3.
    Dop853,
}

impl Method {
    /// All methods, by rising order.
    pub const ALL: [Self; 6] = [Self::Euler, Self::Heun, Self::Rk4, Self::Tsit5, Self::Dopri5, Self::Dop853];

    /// The order p: the global error is O(h^p) on smooth fields.
    pub fn order(self) -> u32 {
        match self {
            Self::Euler => 1,
            Self::Heun => 2,
            Self::Rk4 => 4,
            Self::Tsit5 | Self::Dopri5 => 5,
            Self::Dop853 => 8,
        }
    }

    /// The order q of the dense output: its error inside one step is O(h^{q+1}).
    pub fn dense_order(self) -> u32 {
        match self {
            Self::Euler => 1,
            Self::Heun => 2,
            Self::Rk4 => 3,
            Self::Tsit5 | Self::Dopri5 => 4,
            Self::Dop853 => 7,
        }
    }

    /// Whether the method estimates its error, so that the step size can adapt.
    pub fn is_adaptive(self) -> bool {
        self.tableau().error.is_some()
    }

    /// The name in configs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Euler => "euler",
            Self::Heun => "heun",
            Self::Rk4 => "rk4",
            Self::Tsit5 => "tsit5",
            Self::Dopri5 => "dopri5",
            Self::Dop853 => "dop853",
        }
    }

    /// The coefficients.
    pub(super) fn tableau(self) -> &'static Tableau {
        match self {
            Self::Euler => &EULER,
            Self::Heun => &HEUN,
            Self::Rk4 => &RK4,
            Self::Tsit5 => &TSIT5,
            Self::Dopri5 => &DOPRI5,
            Self::Dop853 => &DOP853,
        }
    }
}

/// Cubic Hermite: the nested form without further rows.
const HERMITE: Interpolant = Interpolant::Nested { rows: &[], extra: &[] };

static EULER: Tableau =
    Tableau { nodes: &[0.0], stages: &[&[]], weights: &[1.0], error: None, interpolant: Interpolant::Linear };

static HEUN: Tableau =
    Tableau { nodes: &[0.0, 1.0], stages: &[&[], &[1.0]], weights: &[0.5, 0.5], error: None, interpolant: HERMITE };

static RK4: Tableau = Tableau {
    nodes: &[0.0, 0.5, 0.5, 1.0],
    stages: &[&[], &[0.5], &[0.0, 0.5], &[0.0, 0.0, 1.0]],
    weights: &[1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0],
    error: None,
    interpolant: HERMITE,
};

static DOPRI5: Tableau = Tableau {
    nodes: &[0.0, 1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0],
    stages: &[
        &[],
        &[1.0 / 5.0],
        &[3.0 / 40.0, 9.0 / 40.0],
        &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
        &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
        &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
    ],
    weights: &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
    error: Some(ErrorEstimate {
        fifth: &[71.0 / 57600.0, 0.0, -71.0 / 16695.0, 71.0 / 1920.0, -17253.0 / 339200.0, 22.0 / 525.0, -1.0 / 40.0],
        third: None,
    }),
    interpolant: Interpolant::Nested {
        rows: &[&[
            -12715105075.0 / 11282082432.0,
            0.0,
            87487479700.0 / 32700410799.0,
            -10690763975.0 / 1880347072.0,
            701980252875.0 / 199316789632.0,
            -1453857185.0 / 822651844.0,
            69997945.0 / 29380423.0,
        ]],
        extra: &[],
    },
};

/// Tsitouras' interpolant is a quartic that agrees with the cubic Hermite polynomial in value and slope at both ends,
/// hence Hermite plus d_i x^2 (1-x)^2, where d_i is the leading coefficient of his b_i(x) [derived].
static TSIT5: Tableau = Tableau {
    nodes: &[0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0],
    stages: &[
        &[],
        &[0.161],
        &[-0.008480655492356989, 0.335480655492357],
        &[2.8971530571054935, -6.359448489975075, 4.3622954328695815],
        &[5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525],
        &[5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383],
    ],
    weights: &[0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774],
    error: Some(ErrorEstimate {
        fifth: &[
            0.0017800110522257714,
            0.0008164344596567469,
            -0.007880878010261995,
            0.1447110071732629,
            -0.5823571654525552,
            0.45808210592918697,
            -1.0 / 66.0,
        ],
        third: None,
    }),
    interpolant: Interpolant::Nested {
        rows: &[&[
            -1.0530884977290216,
            0.1017,
            2.490627285651253,
            -16.548102889244902,
            47.37952196281928,
            -34.87065786149661,
            2.5,
        ]],
        extra: &[],
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights and nodes are rounded to f64 and rows cancel from entries up to 50: 50 * 2^-52 * a few terms.
    const ROUNDING: f64 = 1e-13;

    fn assert_close(found: f64, expected: f64, what: &str) {
        assert!((found - expected).abs() < ROUNDING, "{what}: {found} for {expected}");
    }

    #[test]
    fn every_row_sums_to_its_node() {
        for method in Method::ALL {
            let tableau = method.tableau();
            assert_eq!(tableau.stages.len(), tableau.len());
            assert_eq!(tableau.weights.len(), tableau.len());
            for (i, (row, node)) in tableau.stages.iter().zip(tableau.nodes).enumerate() {
                assert_eq!(row.len(), i);
                assert_close(row.iter().sum(), *node, &format!("{method:?} row {i}"));
            }
            for (i, extra) in tableau.extra().iter().enumerate() {
                assert_eq!(extra.row.len(), tableau.len() + 1 + i);
                assert_close(extra.row.iter().sum(), extra.node, &format!("{method:?} extra {i}"));
            }
        }
    }

    /// Quadrature: sum b c^(k-1) = 1/k for k <= p, and it fails for k = p + 1 or the tall tree does.
    #[test]
    fn weights_integrate_polynomials_up_to_the_order() {
        for method in Method::ALL {
            let tableau = method.tableau();
            for k in 1..=method.order() as i32 {
                let moment: f64 = tableau.weights.iter().zip(tableau.nodes).map(|(b, c)| b * c.powi(k - 1)).sum();
                assert_close(moment, 1.0 / f64::from(k), &format!("{method:?} moment {k}"));
            }
        }
    }

    /// b A^(k-1) 1 = 1/k! for k <= p: the order conditions of the tall trees (linear problems); false for k = p + 1.
    #[test]
    fn tall_trees_hold_up_to_the_order_and_fail_beyond() {
        for method in Method::ALL {
            let tableau = method.tableau();
            let mut powers = vec![1.0; tableau.len()];
            let mut factorial = 1.0;
            for k in 1..=method.order() + 1 {
                factorial *= f64::from(k);
                let left: f64 = tableau.weights.iter().zip(&powers).map(|(b, p)| b * p).sum();
                let defect = (left - 1.0 / factorial).abs() * factorial;
                if k <= method.order() {
                    // Relative to 1/k!: 8! = 4e4 amplifies the rounding of b A^7 1.
                    assert!(defect < 1e-10, "{method:?} tree {k}: {defect:e}");
                } else {
                    assert!(defect > 1e-4, "{method:?} tree {k}: {defect:e}");
                }
                let next = tableau.stages.iter().map(|row| row.iter().zip(&powers).map(|(a, p)| a * p).sum());
                powers = next.collect();
            }
        }
    }

    /// The conditions sum b_i c_i^a (A c^m)_i = 1 / ((m+1)(a+m+2)), m + a + 2 <= p: the bushy trees with one branch.
    #[test]
    fn trees_with_one_branch_hold_up_to_the_order() {
        for method in Method::ALL {
            let tableau = method.tableau();
            let p = method.order() as i32;
            for (a, m) in (0..p).flat_map(|a| (1..p).map(move |m| (a, m))).filter(|(a, m)| a + m + 2 <= p) {
                let inner = |row: &[f64]| -> f64 { row.iter().zip(tableau.nodes).map(|(w, c)| w * c.powi(m)).sum() };
                let left: f64 = (0..tableau.len())
                    .map(|i| tableau.weights[i] * tableau.nodes[i].powi(a) * inner(tableau.stages[i]))
                    .sum();
                assert_close(left, 1.0 / f64::from((m + 1) * (a + m + 2)), &format!("{method:?} {a} {m}"));
            }
        }
    }

    /// An estimate must vanish on polynomials its formulas integrate exactly: order 4 for the pairs' difference,
    /// 5 and 3 for those of DOP853; the next moment must not vanish.
    #[test]
    fn error_estimates_annihilate_low_orders_only() {
        for method in Method::ALL {
            let tableau = method.tableau();
            let Some(error) = &tableau.error else { continue };
            let nodes: Vec<f64> = tableau.nodes.iter().copied().chain([1.0]).collect();
            let moment = |e: &[f64], k: i32| -> f64 { e.iter().zip(&nodes).map(|(e, c)| e * c.powi(k)).sum() };
            let checks = match error.third {
                None => vec![(error.fifth, 4)],
                Some(third) => vec![(error.fifth, 5), (third, 3)],
            };
            for (weights, order) in checks {
                assert_eq!(weights.len(), tableau.len() + 1);
                for k in 0..order {
                    assert_close(moment(weights, k), 0.0, &format!("{method:?} moment {k}"));
                }
                assert!(moment(weights, order).abs() > 1e-6, "{method:?} {:e}", moment(weights, order));
            }
        }
    }

    /// Dense output of order q integrates x^(k-1) to x^k / k, k <= q, at every x; and ends in the step's own weights.
    #[test]
    fn dense_weights_integrate_polynomials_and_end_in_the_step() {
        for method in Method::ALL {
            let tableau = method.tableau();
            let nodes: Vec<f64> =
                tableau.nodes.iter().copied().chain([1.0]).chain(tableau.extra().iter().map(|e| e.node)).collect();
            let mut weights = vec![0.0; tableau.dense_slopes()];
            for x in [0.0, 0.1, 0.37, 0.5, 0.8, 0.99] {
                tableau.dense_weights(x, &mut weights);
                for k in 1..=method.dense_order() as i32 {
                    let moment: f64 = weights.iter().zip(&nodes).map(|(w, c)| w * c.powi(k - 1)).sum();
                    // Rows of DOP853's dense output reach 528.
                    assert!((moment - x.powi(k) / f64::from(k)).abs() < 1e-12, "{method:?} {x} {k}: {moment}");
                }
            }
            tableau.dense_weights(1.0, &mut weights);
            assert_eq!(&weights[..tableau.len()], tableau.weights);
            assert!(weights[tableau.len()..].iter().all(|&w| w == 0.0));
        }
    }

    /// Tsitouras (2011), as factored in diffrax's `_Tsit5Interpolation` 0.7.2 and DifferentialEquations.jl.
    #[test]
    // The digits are kept as published.
    #[allow(clippy::excessive_precision)]
    fn the_interpolant_of_tsitouras_is_the_published_one() {
        let mut weights = [0.0; 7];
        for x in [0.1_f64, 0.4, 0.73, 1.0] {
            TSIT5.dense_weights(x, &mut weights);
            let published = [
                -1.0530884977290216
                    * x
                    * (x - 1.3299890189751412)
                    * (x * x - 1.4364028541716351 * x + 0.7139816917074209),
                0.1017 * x * x * (x * x - 2.1966568338249754 * x + 1.2949852507374631),
                2.490627285651252793 * x * x * (x * x - 2.38535645472061657 * x + 1.57803468208092486),
                -16.54810288924490272 * (x - 1.21712927295533244) * (x - 0.61620406037800089) * x * x,
                47.37952196281928122 * (x - 1.203071208372362603) * (x - 0.658047292653547382) * x * x,
                -34.87065786149660974 * (x - 1.2) * (x - 2.0 / 3.0) * x * x,
                2.5 * (x - 1.0) * (x - 0.6) * x * x,
            ];
            for (found, expected) in weights.iter().zip(published) {
                assert_close(*found, expected, &format!("x = {x}"));
            }
        }
    }

    #[test]
    fn names_are_the_ones_of_configs() {
        for method in Method::ALL {
            assert_eq!(serde_json::to_string(&method).unwrap(), format!("\"{}\"", method.name()));
        }
    }
}
