//! Text as Markdown that reads as that text and as nothing else.

/// Characters that mean something wherever they stand.
const MARKUP: [char; 16] = [
    '\\', '`', '*', '_', '[', ']', '<', '>', '&', '~', '|', '#', '$', '{', '}', '^',
];

/// Text on one line, without spaces around it; line ends become spaces.
pub(super) fn inline(text: &str) -> String {
    let words: Vec<_> = text
        .split(is_space)
        .filter(|word| !word.is_empty())
        .collect();
    line(&words.join(" "))
}

/// Text as paragraphs, each line on a line of its own and indented as it was, with a line feed at the
/// end; nothing for blank text. Several empty lines are as one.
pub(super) fn paragraphs(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::new();
    let mut is_after_line = false;
    for raw in text.split('\n') {
        let content = raw.trim_matches(is_space);
        if content.is_empty() {
            is_after_line = false;
            continue;
        }
        // A backslash at the end of a line keeps the next one apart.
        match (out.is_empty(), is_after_line) {
            (true, _) => {}
            (false, true) => out.push_str("\\\n"),
            (false, false) => out.push_str("\n\n"),
        }
        // Spaces would make a block of code, or vanish.
        for c in raw.chars().take_while(|c| is_space(*c)) {
            out.push_str(if c == '\t' { NO_BREAK_TAB } else { "\u{a0}" });
        }
        out.push_str(&line(content));
        is_after_line = true;
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

/// Text from its first character that can be seen.
pub(super) fn after_space(text: &str) -> &str {
    text.trim_start_matches(is_space)
}

/// Four no-break spaces.
const NO_BREAK_TAB: &str = "\u{a0}\u{a0}\u{a0}\u{a0}";

/// White space and what becomes it.
fn is_space(c: char) -> bool {
    c.is_whitespace() || is_unsafe(c)
}

/// What must not reach a screen: control characters, other line ends, and what reorders the characters
/// around it.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}'..='\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One line: what means something anywhere is escaped, and what means something only where a line
/// begins, where it does.
fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // After the digits that a line begins with, a point or parenthesis would make a list.
    let mut only_digits = true;
    for (at, c) in text.chars().enumerate() {
        let begins = at == 0 && c.is_ascii_punctuation();
        let numbers = at > 0 && only_digits && matches!(c, '.' | ')');
        if begins || numbers || MARKUP.contains(&c) {
            out.push('\\');
        }
        only_digits &= c.is_ascii_digit();
        out.push(if is_unsafe(c) { ' ' } else { c });
    }
    out
}
