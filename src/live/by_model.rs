//! Values by model, bounded in number.
//!
//! Model names come from the application, so the number of values is bounded: the first 64 models
//! have one each, the others share one. A scan of a short list costs less than a hash.

/// Most models with a value or a state of their own.
pub const MAX_MODELS: usize = 64;
/// A model with a longer name has none of its own.
pub const MAX_MODEL_NAME: usize = 128;
/// Label of the models past the bounds.
const OTHERS: &str = "other";
/// Label of an unknown model.
const UNKNOWN: &str = "-";

#[derive(Debug)]
pub struct ByModel<T>(Vec<(Box<str>, T)>);

impl<T> Default for ByModel<T> {
    fn default() -> Self {
        ByModel(Vec::new())
    }
}

impl<T: Default> ByModel<T> {
    /// The value of a model, with its label. A model that would be new counts as `other` unless
    /// `may_add` agrees.
    pub fn get_or_add(
        &mut self,
        model: Option<&str>,
        may_add: impl FnOnce() -> bool,
    ) -> (&str, &mut T) {
        let model = model.filter(|model| !model.is_empty()).unwrap_or(UNKNOWN);
        let model = if model.len() > MAX_MODEL_NAME { OTHERS } else { model };
        let index = self.find(model).unwrap_or_else(|| {
            let fits = model == OTHERS || self.0.len() < MAX_MODELS && may_add();
            let label = if fits { model } else { OTHERS };
            self.find(label).unwrap_or_else(|| {
                self.0.push((label.into(), T::default()));
                self.0.len() - 1
            })
        });
        let (label, value) = &mut self.0[index];
        (label, value)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut T)> {
        self.0.iter_mut().map(|(label, value)| (&**label, value))
    }

    fn find(&self, model: &str) -> Option<usize> {
        self.0.iter().position(|(label, _)| **label == *model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_past_the_bounds_count_together() {
        let mut counts = ByModel::<u32>::default();
        for index in 0..MAX_MODELS + 10 {
            *counts.get_or_add(Some(&format!("m{index}")), || true).1 += 1;
        }
        *counts.get_or_add(Some(&"x".repeat(MAX_MODEL_NAME + 1)), || true).1 += 1;
        assert_eq!(counts.get_or_add(Some("m3"), || true), ("m3", &mut 1));
        assert_eq!(counts.get_or_add(Some("m64"), || true), (OTHERS, &mut 11));
        assert_eq!(counts.0.len(), MAX_MODELS + 1);
    }

    #[test]
    fn a_request_without_a_model_has_a_label_and_a_refused_model_is_another() {
        let mut counts = ByModel::<u32>::default();
        assert_eq!(counts.get_or_add(None, || true).0, UNKNOWN);
        assert_eq!(counts.get_or_add(Some(""), || true).0, UNKNOWN);
        assert_eq!(counts.get_or_add(Some("m"), || false).0, OTHERS);
        assert_eq!(counts.get_or_add(Some("m"), || true).0, "m");
    }
}
