//! nginx's configuration syntax: words, quotes, comments, blocks.

/// Blocks within blocks. nginx's own configurations have a handful.
const MAX_DEPTH: usize = 16;
/// Directives of one snippet; nobody writes as many by hand.
const MAX_DIRECTIVES: usize = 1000;

/// A directive: its words, the first of which is its name, and its block if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Directive {
    /// Never empty. Quotes and escapes are resolved.
    pub(super) words: Vec<String>,
    pub(super) block: Option<Block>,
}

/// What stands between braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Block {
    Directives(Vec<Directive>),
    /// Lua, which has another syntax and is not looked into.
    Lua,
}

impl Directive {
    /// What it is called.
    pub(in super::super) fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    pub(super) fn arguments(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

/// Why a snippet is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum BadSnippet {
    #[error("a directive is not ended by a semicolon")]
    NoSemicolon,
    #[error("a quote is not closed")]
    OpenQuote,
    #[error("a block is not closed")]
    OpenBlock,
    #[error("a brace closes nothing")]
    StrayBrace,
    #[error("a block has no name")]
    NamelessBlock,
    #[error("blocks are nested more than 16 deep")]
    TooDeep,
    #[error("there are more than 1000 directives")]
    TooLong,
}

/// Reads a snippet.
pub(in super::super) fn parse(text: &str) -> Result<Vec<Directive>, BadSnippet> {
    let mut input = Input { rest: text, left: MAX_DIRECTIVES };
    input.directives(0)
}

enum Token {
    Word(String),
    Semicolon,
    Open,
    Close,
    End,
}

struct Input<'a> {
    rest: &'a str,
    /// How many directives there may still be.
    left: usize,
}

impl Input<'_> {
    fn directives(&mut self, depth: usize) -> Result<Vec<Directive>, BadSnippet> {
        if depth > MAX_DEPTH {
            return Err(BadSnippet::TooDeep);
        }
        let (mut found, mut words) = (Vec::new(), Vec::new());
        loop {
            let block = match self.token()? {
                Token::Word(word) => {
                    words.push(word);
                    continue;
                }
                // An empty statement; nginx refuses it, nobody is harmed by it.
                Token::Semicolon if words.is_empty() => continue,
                Token::Semicolon => None,
                Token::Open if words.is_empty() => return Err(BadSnippet::NamelessBlock),
                Token::Open if words[0].ends_with("_by_lua_block") => {
                    self.skip_lua()?;
                    Some(Block::Lua)
                }
                Token::Open => Some(Block::Directives(self.directives(depth + 1)?)),
                Token::Close | Token::End if !words.is_empty() => return Err(BadSnippet::NoSemicolon),
                Token::Close if depth == 0 => return Err(BadSnippet::StrayBrace),
                Token::End if depth > 0 => return Err(BadSnippet::OpenBlock),
                Token::Close | Token::End => return Ok(found),
            };
            self.left = self.left.checked_sub(1).ok_or(BadSnippet::TooLong)?;
            found.push(Directive { words: std::mem::take(&mut words), block });
        }
    }

    fn token(&mut self) -> Result<Token, BadSnippet> {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
            match self.rest.strip_prefix('#') {
                Some(comment) => self.rest = comment.split_once('\n').map_or("", |(_, rest)| rest),
                None => break,
            }
        }
        let mut letters = self.rest.chars();
        let token = match letters.next() {
            None => return Ok(Token::End),
            Some(';') => Token::Semicolon,
            Some('{') => Token::Open,
            Some('}') => Token::Close,
            Some(quote @ ('"' | '\'')) => {
                self.rest = letters.as_str();
                return self.quoted(quote);
            }
            Some(_) => return Ok(self.bare()),
        };
        self.rest = letters.as_str();
        Ok(token)
    }

    fn quoted(&mut self, quote: char) -> Result<Token, BadSnippet> {
        let mut word = String::new();
        let mut letters = self.rest.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '\\' => escaped(letters.next().ok_or(BadSnippet::OpenQuote)?, &mut word),
                letter if letter == quote => {
                    self.rest = letters.as_str();
                    return Ok(Token::Word(word));
                }
                letter => word.push(letter),
            }
        }
        Err(BadSnippet::OpenQuote)
    }

    /// Up to what ends a word. The braces of `${name}` belong to it.
    fn bare(&mut self) -> Token {
        let mut word = String::new();
        let mut letters = self.rest.chars();
        let mut in_variable = false;
        loop {
            let before = letters.as_str();
            match letters.next() {
                None => {
                    self.rest = "";
                    break;
                }
                Some('\\') => match letters.next() {
                    Some(letter) => escaped(letter, &mut word),
                    None => word.push('\\'),
                },
                Some('{') if word.ends_with('$') => {
                    in_variable = true;
                    word.push('{');
                }
                Some('}') if in_variable => {
                    in_variable = false;
                    word.push('}');
                }
                Some(' ' | '\t' | '\r' | '\n' | ';' | '{') => {
                    self.rest = before;
                    break;
                }
                Some(letter) => word.push(letter),
            }
        }
        Token::Word(word)
    }

    /// To the brace that ends the block. Lua's strings and comments may hold braces, in pairs as a
    /// rule; where they don't, the snippet is refused as a whole or ends too late, never too early to
    /// hide a directive: what a Lua block may do is judged by its name.
    fn skip_lua(&mut self) -> Result<(), BadSnippet> {
        let mut depth = 1_usize;
        for (at, letter) in self.rest.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                self.rest = &self.rest[at + 1..];
                return Ok(());
            }
        }
        Err(BadSnippet::OpenBlock)
    }
}

/// nginx resolves some escapes and leaves the others for regular expressions.
fn escaped(letter: char, word: &mut String) {
    match letter {
        '"' | '\'' | '\\' => word.push(letter),
        't' => word.push('\t'),
        'r' => word.push('\r'),
        'n' => word.push('\n'),
        other => word.extend(['\\', other]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name|argument{…}` for each directive.
    fn show(directives: &[Directive]) -> String {
        let one = |directive: &Directive| {
            let block = match &directive.block {
                None => String::new(),
                Some(Block::Lua) => "{lua}".to_owned(),
                Some(Block::Directives(inner)) => format!("{{{}}}", show(inner)),
            };
            directive.words.join("|") + &block
        };
        directives.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn texts() {
        use BadSnippet::{NamelessBlock, NoSemicolon, OpenBlock, OpenQuote, StrayBrace};
        for (text, expect) in [
            ("", Ok("")),
            ("a;", Ok("a")),
            ("a b c;\n  d;", Ok("a|b|c d")),
            ("# a b;\nc; # d;", Ok("c")),
            ("a \"b c\" 'd;{}';", Ok("a|b c|d;{}")),
            ("a \"b\\\"c\" '\\'';", Ok("a|b\"c|'")),
            ("a b\\;", Ok("a|b\\;").and(Err(NoSemicolon))),
            ("a ^/x\\.html$;", Ok("a|^/x\\.html$")),
            ("a \"\\d+\";", Ok("a|\\d+")),
            ("a b#c;", Ok("a|b#c")),
            ("a ${b}c;", Ok("a|${b}c")),
            ("if ($a = 1) { b; c { d; } }", Ok("if|($a|=|1){b c{d}}")),
            ("if ($a){b;}", Ok("if|($a){b}")),
            ("a b{c;}", Ok("a|b{c}")),
            ("x_by_lua_block { if a then b = {} end } c;", Ok("x_by_lua_block{lua} c")),
            (";;a;", Ok("a")),
            ("a", Err(NoSemicolon)),
            ("a { b }", Err(NoSemicolon)),
            ("a \"b;", Err(OpenQuote)),
            ("a 'b\\", Err(OpenQuote)),
            ("a { b;", Err(OpenBlock)),
            ("x_by_lua_block { {", Err(OpenBlock)),
            ("a; }", Err(StrayBrace)),
            ("{ a; }", Err(NamelessBlock)),
        ] {
            assert_eq!(parse(text).map(|found| show(&found)), expect.map(str::to_owned), "{text}");
        }
        assert_eq!(parse(&"a{".repeat(100_000)), Err(BadSnippet::TooDeep));
        assert_eq!(parse(&"a;".repeat(100_000)), Err(BadSnippet::TooLong));
    }

    #[test]
    fn every_begin_of_a_snippet_ends() {
        let text = "add_header X-A \"a;{}\" always; # é\nif ($a ~ \"^é\\\"\") { return 403 'x'; }\n\
                    a_by_lua_block { local t = {} }";
        for (at, _) in text.char_indices() {
            let _ = parse(&text[..at]);
        }
    }
}
