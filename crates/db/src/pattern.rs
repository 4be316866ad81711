//! Text as a pattern of SQL.

/// The pattern that matches whatever contains `text`, letter for letter: `%`, `_` and `\\` mean themselves.
pub fn containing(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('%');
    for letter in text.chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::containing;

    #[test]
    fn what_means_something_in_a_pattern_means_itself_in_the_text() {
        assert_eq!(containing("Ana"), "%Ana%");
        assert_eq!(containing(r"50%_\é"), r"%50\%\_\\é%");
    }
}
