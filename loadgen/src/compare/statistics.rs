//! Medians of pairwise ratios, with a bootstrap interval. Deterministic: the resampling has a fixed seed.

use crate::random::Random;

const RESAMPLES: usize = 4000;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    pub median: f64,
    /// The 95 % interval of the median.
    pub low: f64,
    pub high: f64,
}

impl Ratio {
    /// `None` without samples, or when one of them is not a number.
    pub fn of(ratios: &[f64]) -> Option<Ratio> {
        if ratios.is_empty() || ratios.iter().any(|ratio| !ratio.is_finite()) {
            return None;
        }
        let mut random = Random::new(ratios.len() as u64);
        let mut medians: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let sample: Vec<f64> =
                    ratios.iter().map(|_| ratios[random.below(ratios.len() as u64) as usize]).collect();
                median(&sample)
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        let at = |quantile: f64| medians[((RESAMPLES - 1) as f64 * quantile).round() as usize];
        Some(Ratio { median: median(ratios), low: at(0.025), high: at(0.975) })
    }
}

pub fn median(values: &[f64]) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn an_outlier_moves_the_interval_but_not_the_median() {
        let ratio = Ratio::of(&[0.50, 0.51, 0.49, 0.50, 3.0]).unwrap();
        assert_eq!(ratio.median, 0.50);
        assert!(ratio.low >= 0.49 && ratio.low <= 0.50 && ratio.high > 0.50, "{ratio:?}");
    }

    #[test]
    fn one_sample_and_none() {
        assert_eq!(Ratio::of(&[0.7]), Some(Ratio { median: 0.7, low: 0.7, high: 0.7 }));
        assert_eq!(Ratio::of(&[]), None);
        assert_eq!(Ratio::of(&[f64::NAN]), None);
    }

    /// The interval of the median of uniform draws covers the true median about 95 times of 100.
    #[test]
    fn the_interval_covers() {
        let mut random = Random::new(77);
        let covered = (0..400)
            .filter(|_| {
                let sample: Vec<f64> = (0..15).map(|_| random.unit()).collect();
                let ratio = Ratio::of(&sample).unwrap();
                (ratio.low..=ratio.high).contains(&0.5)
            })
            .count();
        assert!((350..=396).contains(&covered), "{covered} of 400");
    }
}
