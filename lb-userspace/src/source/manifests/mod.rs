mod document;
mod tree;
