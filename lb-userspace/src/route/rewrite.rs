//! What the endpoint is asked for: the one place where targets are rewritten.

use std::borrow::Cow;

use super::Found;
use super::pattern::Captures;
use super::target::{BadTarget, Target};
use crate::model::{RewriteTarget, Template, TemplatePart, Variable};

/// What becomes of a request's target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewritten<'t> {
    /// The endpoint is asked for this.
    Target(Cow<'t, Target>),
    /// The client is sent to this URL (302): the rewrite's target is one, which ends the request in
    /// nginx, too.
    Redirect(String),
}

impl<T> Found<'_, T> {
    /// What becomes of the target that the route was found by. As in nginx, the rewrite's target
    /// takes the whole path's place; the request's query stays, behind the target's own if it has
    /// one, unless that ends with `?`. `value` adds what is known of the request, in a form that can
    /// stand in a URL; captures are not asked for.
    ///
    /// # Errors
    /// Where the result is none that [`Target::parse`] takes.
    pub fn rewrite<'t>(
        &self,
        target: &'t Target,
        value: impl FnMut(&Variable, &mut String),
    ) -> Result<Rewritten<'t>, BadTarget> {
        let unchanged = Ok(Rewritten::Target(Cow::Borrowed(target)));
        match &self.route.policy.rewrite {
            None => unchanged,
            Some(_) if target.is_asterisk() => unchanged,
            Some(RewriteTarget::Replace(path)) => finish(path.to_string(), false, target),
            Some(RewriteTarget::Captures(template)) => {
                let is_url = match template.0.first() {
                    Some(TemplatePart::Text(text)) => {
                        text.starts_with("http://") || text.starts_with("https://")
                    }
                    Some(TemplatePart::Variable(variable)) => *variable == Variable::Scheme,
                    None => false,
                };
                finish(fill(template, &self.captures(target.path()), value), is_url, target)
            }
        }
    }

    /// What the groups of the route's regular expression match in the path that it was found by;
    /// empty for a route that has none.
    pub fn captures<'p>(&self, path: &'p str) -> Captures<'p> {
        self.pattern.map(|pattern| pattern.captures(path)).unwrap_or_default()
    }
}

/// In a query, what a capture brings can't end the parameter that it stands in.
fn fill(
    template: &Template,
    captures: &Captures<'_>,
    mut value: impl FnMut(&Variable, &mut String),
) -> String {
    let mut text = String::new();
    let mut in_query = false;
    for part in &template.0 {
        match part {
            TemplatePart::Text(literal) => {
                in_query |= literal.contains('?');
                text.push_str(literal);
            }
            TemplatePart::Variable(Variable::Capture(group)) if in_query => {
                text.push_str(&captures.get(*group).replace('&', "%26").replace('+', "%2B"));
            }
            TemplatePart::Variable(Variable::Capture(group)) => text.push_str(captures.get(*group)),
            TemplatePart::Variable(variable) => value(variable, &mut text),
        }
    }
    text
}

fn finish<'t>(mut text: String, is_url: bool, target: &Target) -> Result<Rewritten<'t>, BadTarget> {
    if text.ends_with('?') {
        text.pop();
    } else if let Some(query) = target.query() {
        match text.contains('?') {
            true if query.is_empty() => {}
            true => text.push('&'),
            false => text.push('?'),
        }
        text.push_str(query);
    }
    if is_url {
        let clean = text.bytes().all(|byte| byte.is_ascii_graphic());
        return if clean { Ok(Rewritten::Redirect(text)) } else { Err(BadTarget::BadByte) };
    }
    if !text.starts_with('/') {
        text.insert(0, '/');
    }
    Ok(Rewritten::Target(Cow::Owned(Target::parse(&text)?)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{PathMatch, RoutePolicy};
    use crate::route::RouteTable;
    use crate::route::table::tests::{route, table_of};

    /// The rewritten target of a route with this path (a regular expression) and rewrite.
    fn rewritten(path: &str, rewrite: RewriteTarget, target: &str) -> Result<String, BadTarget> {
        let mut route = route("Prefix /", "web");
        route.path = PathMatch::Regex(path.into());
        route.policy = Arc::new(RoutePolicy { rewrite: Some(rewrite), ..RoutePolicy::default() });
        let table: RouteTable = table_of(route);
        let target = Target::parse(target).expect("a target");
        let found = table.find(None, target.path()).expect("covered");
        let value = |variable: &Variable, text: &mut String| text.push_str(&format!("<{variable}>"));
        Ok(match found.rewrite(&target, value)? {
            Rewritten::Target(target) => target.path_and_query().to_owned(),
            Rewritten::Redirect(url) => format!("302 {url}"),
        })
    }

    #[test]
    fn targets() {
        for (path, rewrite, target, expect) in [
            ("/foo(/|$)(.*)", "/$2", "/foo/bar?x=1", Ok("/bar?x=1")),
            ("/foo(/|$)(.*)", "/$2", "/foo", Ok("/")),
            ("/foo(/|$)(.*)", "/$2", "/FOO/Bar", Ok("/Bar")),
            ("/foo(/|$)(.*)", "/$2", "/foo?", Ok("/?")),
            ("/foo(.*)", "$1", "/foo/bar", Ok("/bar")),
            ("/foo(.*)", "$1", "/foobar", Ok("/bar")),
            ("/foo(.*)", "$1", "/foo", Ok("/")),
            ("/foo", "/$1/x", "/foo", Ok("/x")),
            ("/a/(.*)", "/app/$1", "/a/b%2f../c", Ok("/app/b%2F../c")),
            ("/a/([^/]*)/?(.*)", "/$2/../$1", "/a/b/c", Ok("/b")),
            ("/a/(.)(.*)", "/$1", "/a/%20", Err(BadTarget::BadEscape)),
            ("/a/x(.*)", "/$1", "/a/x..;/y", Err(BadTarget::HiddenDots)),
            ("/a/x(.*)", "/$1", "/a/x../y", Ok("/y")),
            (
                "/u/(.*)/(.*)",
                "/find?user=$1&item=$2",
                "/u/a&b+c/7?q=1",
                Ok("/find?user=a%26b%2Bc&item=7&q=1"),
            ),
            ("/u/(.*)", "/find?user=$1", "/u/x", Ok("/find?user=x")),
            ("/u/(.*)", "/find?user=$1?", "/u/x?q=1", Ok("/find?user=x")),
            ("/u/(.*)", "/find?", "/u/x?q=1", Ok("/find")),
            ("/u/(.*)", "/find?a=1", "/u/x?", Ok("/find?a=1")),
            ("/(.*)", "https://example.com/$1", "/a/b?c=d", Ok("302 https://example.com/a/b?c=d")),
            ("/(.*)", "http://example.com/?p=$1", "/a&b?c=d", Ok("302 http://example.com/?p=a%26b&c=d")),
            ("/(.*)", "$scheme://example.com/$1", "/a", Ok("302 <scheme>://example.com/a")),
            ("/(.*)", "https://example.com/ $1", "/a", Err(BadTarget::BadByte)),
            ("/(.*)", "/x$request_uri", "/a", Ok("/x%3Crequest_uri%3E")),
        ] {
            let template = Template::parse(rewrite).expect("known variables");
            let got = rewritten(path, RewriteTarget::Captures(template), target);
            assert_eq!(got.as_deref(), expect.as_ref().copied(), "{path} → {rewrite} of {target}");
        }
    }

    #[test]
    fn replacing_the_whole_path() {
        for (rewrite, target, expect) in [
            ("/", "/foo/bar?x=1", Ok("/?x=1")),
            ("/app/", "/foo", Ok("/app/")),
            ("/app", "/foo?", Ok("/app?")),
            ("/a/../b", "/foo", Ok("/b")),
            ("/app?fixed=1", "/foo?x=1", Ok("/app?fixed=1&x=1")),
            ("/app#top", "/foo", Err(BadTarget::Fragment)),
        ] {
            let got = rewritten("/foo", RewriteTarget::Replace(rewrite.into()), target);
            assert_eq!(got.as_deref(), expect.as_ref().copied(), "{rewrite} of {target}");
        }
    }

    #[test]
    fn nothing_to_rewrite() {
        let target = Target::parse("/foo?x").expect("a target");
        let table: RouteTable = table_of(route("Prefix /", "web"));
        let found = table.find(None, target.path()).expect("covered");
        let same = found.rewrite(&target, |_, _| {});
        assert!(matches!(same, Ok(Rewritten::Target(Cow::Borrowed(same))) if std::ptr::eq(same, &target)));
    }
}
