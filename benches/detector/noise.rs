//! Random numbers of the distributions that the series need.

use std::f64::consts::TAU;

/// xorshift64* (Vigna 2016), and the distributions that the series need.
pub struct Noise {
    state: u64,
    spare: Option<f64>,
    correlated: f64,
    /// Roll-ups until the end of a burst.
    pub burst: u32,
}

impl Noise {
    pub fn new(seed: u64) -> Self {
        let state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut noise = Noise { state, spare: None, correlated: 0.0, burst: 0 };
        for _ in 0..20 {
            noise.uniform();
        }
        noise
    }

    /// In (0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let bits = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
        (bits as f64 + 0.5) / (1_u64 << 53) as f64
    }

    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (radius, angle) = ((-2.0 * self.uniform().ln()).sqrt(), TAU * self.uniform());
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }

    /// Student's t with four degrees of freedom, scaled to a standard deviation of 1.
    pub fn t4(&mut self) -> f64 {
        let chi = -2.0 * (self.uniform() * self.uniform()).ln();
        self.normal() / (chi / 4.0).sqrt() / 2.0_f64.sqrt()
    }

    pub fn correlated(&mut self, innovation: f64) -> f64 {
        self.correlated = 0.6 * self.correlated + 0.8 * innovation;
        self.correlated
    }

    /// Failures among `calls`.
    pub fn failures(&mut self, calls: u32, rate: f64) -> u32 {
        (0..calls).filter(|_| self.uniform() < rate).count() as u32
    }

    /// The quantile of log-normal values with a median of 1.
    pub fn quantile(&mut self, calls: u32, sigma: f64, q: f64) -> f64 {
        let mut values: Vec<f64> = (0..calls).map(|_| self.normal()).collect();
        let rank = (q * f64::from(calls)).ceil() as usize - 1;
        (*values.select_nth_unstable_by(rank, f64::total_cmp).1 * sigma).exp()
    }
}
