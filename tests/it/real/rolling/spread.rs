//! Whether a crowd is spread over a window or comes in a rush.
//!
//! Measured by the fullest tenth of the window, wherever it begins, against the even share of a tenth. Where each client
//! is closed at a random moment of a window and comes back after a random delay of the same length, the moments of coming
//! back lie like the sum of two dice: the fullest tenth of twice the window has 1.9 even shares, and with a hundred
//! clients, by chance, now and then 2.9. A rush has up to ten.

use std::fmt;
use std::time::Duration;

/// The most even shares that the fullest tenth may have, chance apart: room for a machine that stands still for a moment.
const MOST: f64 = 3.0;
/// How many standard deviations beyond that are put down to chance: the fewer clients, the more.
const CHANCE: f64 = 2.0;

/// How moments lie in a window.
#[derive(Debug, PartialEq)]
pub struct Spread {
    pub count: usize,
    pub last: Duration,
    /// How many even shares the fullest tenth has.
    pub fullest: f64,
}

impl Spread {
    /// `moments` since the window began.
    pub fn over(window: Duration, mut moments: Vec<Duration>) -> Spread {
        moments.sort_unstable();
        let in_tenth = |(index, first): (usize, &Duration)| {
            moments[index..].iter().take_while(|moment| **moment - *first < window / 10).count()
        };
        let fullest = moments.iter().enumerate().map(in_tenth).max().unwrap_or(0);
        let (count, last) = (moments.len(), moments.last().copied().unwrap_or_default());
        Spread { count, last, fullest: as_float(fullest) * 10.0 / as_float(count.max(1)) }
    }

    pub fn is_rush(&self) -> bool {
        let share = as_float(self.count) / 10.0;
        self.fullest * share > MOST * share + CHANCE * (MOST * share).sqrt()
    }
}

fn as_float(count: usize) -> f64 {
    u32::try_from(count).expect("few").into()
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { count, last, fullest } = self;
        write!(f, "{count} within {:.1} s (fullest tenth: {fullest:.1} even shares)", last.as_secs_f32())
    }
}

#[test]
fn a_rush_is_told_from_a_spread() {
    let window = Duration::from_secs(10);
    let even: Vec<_> = (0..100).map(|n| Duration::from_millis(n * 100)).collect();
    let spread = Spread::over(window, even.clone());
    assert_eq!(spread, Spread { count: 100, last: Duration::from_millis(9900), fullest: 1.0 });
    assert!(!spread.is_rush());
    let rush = even.iter().map(|moment| *moment / 5).collect();
    assert!(Spread::over(window, rush).is_rush(), "in a fifth of the time");
    assert!(!Spread::over(window, Vec::new()).is_rush());
}
