//! Suggests the known word that was probably meant.
//!
//! Distance is counted in edits (insert, delete, replace, swap of neighbours; Damerau 1964): at most
//! one in a short word and one in three letters of a long one, so that a suggestion is rarely wrong.

/// The nearest of `known`, if it is near enough.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let fold = |text: &str| text.to_lowercase().replace('-', "_");
    let near = |text: &&str| strsim::osa_distance(&fold(word), &fold(text));
    let best =
        known.into_iter().filter(|text| *text != word && text.len() <= 64).min_by_key(near)?;
    (near(&best) <= (word.chars().count() / 3).clamp(1, 3)).then_some(best)
}

/// ``did you mean `timeout`?``
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, known).map(|near| format!("did you mean `{near}`?"))
}

/// `a, b or c`
pub fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, first)) => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_recognized_and_another_word_is_not() {
        let known = ["recovery_timeout", "timeout", "url", "providers"];
        assert_eq!(nearest("recovery_timout", known), Some("recovery_timeout"));
        assert_eq!(nearest("timeuot", known), Some("timeout"));
        assert_eq!(nearest("Timeout", known), Some("timeout"));
        assert_eq!(nearest("ulr", known), Some("url"));
        assert_eq!(nearest("weight", known), None);
        assert_eq!(listed(["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
