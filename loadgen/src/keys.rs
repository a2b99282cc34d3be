//! Which key a request asks for: a number below the size of the key space.

use std::str::FromStr;

use crate::random::Random;

/// With a larger one the first key has all requests but one in a thousand.
pub const ZIPF_EXPONENT_MAX: f64 = 10.0;

/// What was asked for with `--keys`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    Uniform,
    /// Request number `n` asks for key `n mod count`, over all threads together.
    Sequential,
    /// P(rank) ∝ 1 / rank^exponent; ranks are scattered over the key space.
    Zipf {
        exponent: f64,
    },
    /// `share` of the requests go to a window of `fraction` of the keys, which moves on by one key
    /// every `requests_per_step` requests of a thread.
    HotSet {
        fraction: f64,
        share: f64,
        requests_per_step: u64,
    },
    /// Normal around the middle of the key space, standard deviation a sixth of it; memtier's `G`.
    Gaussian,
}

impl FromStr for Distribution {
    type Err = String;

    /// `uniform`, `sequential`, `zipf[:exponent]`, `gaussian`, `hotset[:fraction[:share[:requests per step]]]`.
    fn from_str(text: &str) -> Result<Distribution, String> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let mut number = |default: f64, what: &str, valid: fn(f64) -> bool| match parts.next() {
            None => Ok(default),
            Some(text) => match text.parse::<f64>() {
                Ok(value) if valid(value) => Ok(value),
                _ => Err(format!("{what} {text:?} is out of range")),
            },
        };
        let unit = |value: f64| value > 0.0 && value <= 1.0;
        let distribution = match name {
            "uniform" | "random" => Distribution::Uniform,
            "sequential" | "seq" => Distribution::Sequential,
            "gaussian" => Distribution::Gaussian,
            "zipf" | "zipfian" => {
                let exponent = number(0.99, "the exponent", |value| value > 0.0 && value <= ZIPF_EXPONENT_MAX)?;
                Distribution::Zipf { exponent }
            }
            "hotset" => Distribution::HotSet {
                fraction: number(0.01, "the hot fraction", unit)?,
                share: number(0.9, "the share of requests", unit)?,
                requests_per_step: number(100.0, "requests per step", |value| value >= 1.0)? as u64,
            },
            _ => {
                return Err(
                    "expected uniform, sequential, zipf[:EXPONENT], gaussian or hotset[:FRACTION[:SHARE[:REQUESTS]]]"
                        .into(),
                );
            }
        };
        match parts.next() {
            Some(rest) => Err(format!("unexpected {rest:?} after {name}")),
            None => Ok(distribution),
        }
    }
}

impl std::fmt::Display for Distribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Distribution::Uniform => f.write_str("uniform"),
            Distribution::Sequential => f.write_str("sequential"),
            Distribution::Gaussian => f.write_str("gaussian"),
            Distribution::Zipf { exponent } => write!(f, "zipf:{exponent}"),
            Distribution::HotSet { fraction, share, requests_per_step } => {
                write!(f, "hotset:{fraction}:{share}:{requests_per_step}")
            }
        }
    }
}

/// The keys of one thread, one at a time.
#[derive(Clone, Debug)]
pub struct KeyStream {
    count: u64,
    random: Random,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Uniform,
    Sequential,
    Zipf { zipf: Zipf, scatter: Scatter },
    HotSet { hot: u64, share: f64, requests_per_step: u64, requests: u64, start: u64 },
    Gaussian,
}

impl KeyStream {
    pub fn new(distribution: Distribution, count: u64, random: Random) -> KeyStream {
        assert!(count > 0, "a key space needs keys");
        let kind = match distribution {
            Distribution::Uniform => Kind::Uniform,
            Distribution::Sequential => Kind::Sequential,
            Distribution::Gaussian => Kind::Gaussian,
            Distribution::Zipf { exponent } => {
                Kind::Zipf { zipf: Zipf::new(count, exponent), scatter: Scatter::new(count) }
            }
            Distribution::HotSet { fraction, share, requests_per_step } => Kind::HotSet {
                hot: ((count as f64 * fraction) as u64).clamp(1, count),
                share,
                requests_per_step,
                requests: 0,
                start: 0,
            },
        };
        KeyStream { count, random, kind }
    }

    /// The key of request number `request`.
    #[inline]
    pub fn next(&mut self, request: u64) -> u64 {
        match &mut self.kind {
            Kind::Uniform => self.random.below(self.count),
            Kind::Sequential => request % self.count,
            Kind::Zipf { zipf, scatter } => scatter.place(zipf.rank(&mut self.random) - 1),
            Kind::HotSet { hot, share, requests_per_step, requests, start } => {
                *requests += 1;
                if requests.is_multiple_of(*requests_per_step) {
                    *start = (*start + 1) % self.count;
                }
                if self.random.unit() < *share {
                    (*start + self.random.below(*hot)) % self.count
                } else {
                    self.random.below(self.count)
                }
            }
            Kind::Gaussian => loop {
                // Box–Muller; the rare draw beyond the ends is drawn again.
                let radius = (-2.0 * (1.0 - self.random.unit()).ln()).sqrt();
                let normal = radius * (std::f64::consts::TAU * self.random.unit()).cos();
                let key = (self.count as f64) * (0.5 + normal / 6.0);
                if key >= 0.0 && key < self.count as f64 {
                    return key as u64;
                }
            },
        }
    }
}

/// Zipf ranks by rejection-inversion (W. Hörmann, G. Derflinger, "Rejection-inversion to generate
/// variates from monotone discrete distributions", 1996): constant time, no table, exact.
#[derive(Clone, Debug)]
struct Zipf {
    count: f64,
    exponent: f64,
    h_first: f64,
    h_count: f64,
    accept: f64,
}

impl Zipf {
    fn new(count: u64, exponent: f64) -> Zipf {
        let mut zipf = Zipf { count: count as f64, exponent, h_first: 0.0, h_count: 0.0, accept: 0.0 };
        zipf.h_first = zipf.integral(1.5) - 1.0;
        zipf.h_count = zipf.integral(zipf.count + 0.5);
        zipf.accept = 2.0 - zipf.integral_inverse(zipf.integral(2.5) - zipf.density(2.0));
        zipf
    }

    /// A rank in `1..=count`.
    #[inline]
    fn rank(&self, random: &mut Random) -> u64 {
        loop {
            let u = self.h_count + random.unit() * (self.h_first - self.h_count);
            let x = self.integral_inverse(u);
            let rank = (x + 0.5).floor().clamp(1.0, self.count);
            if rank - x <= self.accept || u >= self.integral(rank + 0.5) - self.density(rank) {
                return rank as u64;
            }
        }
    }

    #[inline]
    fn density(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// ∫ x^-exponent, written so that exponents near 1 lose no precision.
    #[inline]
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        exp_m1_over(log * (1.0 - self.exponent)) * log
    }

    #[inline]
    fn integral_inverse(&self, x: f64) -> f64 {
        let t = (x * (1.0 - self.exponent)).max(-1.0);
        (ln_1p_over(t) * x).exp()
    }
}

/// (e^x − 1) / x
#[inline]
fn exp_m1_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.exp_m1() / x } else { 1.0 + x * 0.5 * (1.0 + x / 3.0) }
}

/// ln(1 + x) / x
#[inline]
fn ln_1p_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.ln_1p() / x } else { 1.0 - x * (0.5 - x / 3.0) }
}

/// A bijection of `0..count`, so that popular keys are not neighbours in the order they were loaded.
#[derive(Clone, Debug)]
struct Scatter {
    count: u64,
    factor: u64,
    offset: u64,
}

impl Scatter {
    fn new(count: u64) -> Scatter {
        // About count / golden ratio spreads consecutive ranks evenly; coprime makes it a bijection.
        let mut factor = ((count as f64) * 0.618_033_988_749_895) as u64;
        factor = factor.clamp(1, count);
        while greatest_common_divisor(factor, count) != 1 {
            factor = factor % count + 1;
        }
        Scatter { count, factor, offset: count / 3 }
    }

    #[inline]
    fn place(&self, rank: u64) -> u64 {
        if let (Ok(rank), Ok(factor)) = (u32::try_from(rank), u32::try_from(self.factor)) {
            return (u64::from(rank) * u64::from(factor) + self.offset) % self.count;
        }
        ((u128::from(rank) * u128::from(self.factor) + u128::from(self.offset)) % u128::from(self.count)) as u64
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(distribution: Distribution, keys: u64, draws: u64) -> Vec<u64> {
        let mut counts = vec![0; keys as usize];
        let mut stream = KeyStream::new(distribution, keys, Random::new(42));
        for request in 0..draws {
            counts[stream.next(request) as usize] += 1;
        }
        counts
    }

    /// Compares with the exact probabilities: every rank within five standard deviations.
    #[test]
    fn zipf_is_zipf() {
        for exponent in [0.5, 0.99, 1.0, 1.2, 2.5] {
            let zipf = Zipf::new(1000, exponent);
            let mut random = Random::new(3);
            let draws = 100_000;
            let mut seen = vec![0u64; 1001];
            for _ in 0..draws {
                seen[zipf.rank(&mut random) as usize] += 1;
            }
            let total: f64 = (1..=1000).map(|rank| (rank as f64).powf(-exponent)).sum();
            for (rank, &seen) in seen.iter().enumerate().skip(1) {
                let p = (rank as f64).powf(-exponent) / total;
                let expected = p * draws as f64;
                let deviation = (expected * (1.0 - p)).sqrt().max(1.0);
                let difference = (seen as f64 - expected).abs();
                assert!(difference < 5.0 * deviation, "exponent {exponent} rank {rank}: {seen} of {expected}");
            }
        }
    }

    #[test]
    fn zipf_of_one_key() {
        let zipf = Zipf::new(1, 1.0);
        let mut random = Random::new(0);
        assert!((0..100).all(|_| zipf.rank(&mut random) == 1));
    }

    #[test]
    fn scatter_is_a_bijection() {
        for count in [1, 2, 3, 10, 97, 1000, 65_536] {
            let scatter = Scatter::new(count);
            let mut seen = vec![false; count as usize];
            for rank in 0..count {
                assert!(!std::mem::replace(&mut seen[scatter.place(rank) as usize], true), "{count}: {rank} twice");
            }
        }
        // Beyond 32 bits the products need 128.
        let scatter = Scatter::new(1 << 40);
        assert_ne!(scatter.place(1), scatter.place(2));
        assert!(scatter.place((1 << 40) - 1) < 1 << 40);
    }

    #[test]
    fn uniform_reaches_all_and_sequential_each_once() {
        let uniform = counts(Distribution::Uniform, 100, 100_000);
        assert!(uniform.iter().all(|count| (800..1200).contains(count)), "{uniform:?}");
        assert!(counts(Distribution::Sequential, 100, 300).iter().all(|&count| count == 3));
    }

    #[test]
    fn gaussian_prefers_the_middle() {
        let seen = counts(Distribution::Gaussian, 600, 100_000);
        let within: u64 = seen[200..400].iter().sum();
        // One standard deviation either side of the middle: 68.3 % (a little more, the tails are cut).
        assert!((0.67..0.70).contains(&(within as f64 / 100_000.0)), "{within}");
    }

    #[test]
    fn hot_set_gets_its_share_and_moves() {
        let still = Distribution::HotSet { fraction: 0.01, share: 0.9, requests_per_step: 1 << 40 };
        let seen = counts(still, 1000, 100_000);
        let hot: u64 = seen[..10].iter().sum();
        assert!((0.89..0.92).contains(&(hot as f64 / 100_000.0)), "{hot}");

        let moving = Distribution::HotSet { fraction: 0.01, share: 0.9, requests_per_step: 10 };
        let seen = counts(moving, 1000, 100_000);
        // 10,000 steps: ten times round, so no key stays hot.
        assert!(seen.iter().all(|count| (50..200).contains(count)), "{seen:?}");
    }

    #[test]
    fn distributions_parse_and_print() {
        for text in ["uniform", "sequential", "gaussian", "zipf:1.2", "hotset:0.1:0.8:50"] {
            assert_eq!(text.parse::<Distribution>().unwrap().to_string(), text);
        }
        assert_eq!("zipf".parse(), Ok(Distribution::Zipf { exponent: 0.99 }));
        for wrong in ["", "zipf:0", "zipf:x", "zipf:1:2", "hotset:2", "hotset:0.1:0", "uniform:1"] {
            assert!(wrong.parse::<Distribution>().is_err(), "{wrong:?}");
        }
    }
}
