//! Browsers that take `SameSite=None` for `SameSite=Strict`, or drop such cookies.

/// Whether a browser understands `SameSite=None`. The same browsers as ingress-nginx holds for
/// incompatible: Chrome before 70, everything on iOS 12, Safari on macOS 10.14.
pub(super) fn understands_none(user_agent: &str) -> bool {
    let chrome = number_after(user_agent, "Chrome/");
    let old_chrome = matches!(chrome, Some(4..=6 | 40..=69));
    let ios_12 = user_agent.contains("CPU iPhone OS 12") || user_agent.contains("iPad; CPU OS 12");
    let safari_on_mojave = chrome.is_none()
        && user_agent.contains("Macintosh")
        && user_agent.contains("Intel Mac OS X 10_14")
        && user_agent.contains("Safari");
    !(old_chrome || ios_12 || safari_on_mojave)
}

fn number_after(text: &str, prefix: &str) -> Option<u32> {
    let (_, rest) = text.split_once(prefix)?;
    let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers() {
        for (user_agent, expect) in [
            ("", true),
            ("curl/8.5.0", true),
            ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/50.0.2661.75 Safari/537.36", false),
            ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/69.0 Safari/537.36", false),
            ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/70.0 Safari/537.36", true),
            ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/130.0 Safari/537.36", true),
            ("Mozilla/5.0 (X11; Linux x86_64) Chrome/99999999999 Safari/537.36", true),
            ("Mozilla/5.0 (iPhone; CPU iPhone OS 12_4 like Mac OS X) Version/12.1 Safari/604.1", false),
            ("Mozilla/5.0 (iPad; CPU OS 12_4 like Mac OS X) Version/12.1 Safari/604.1", false),
            ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) Version/17.4 Safari/604.1", true),
            ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_6) Version/12.1 Safari/605.1.15", false),
            ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_6) Chrome/120.0 Safari/537.36", true),
            ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Version/17.1 Safari/605.1.15", true),
        ] {
            assert_eq!(understands_none(user_agent), expect, "{user_agent}");
        }
    }
}
