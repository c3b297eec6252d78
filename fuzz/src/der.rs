//! DER as a tree that can be edited: lengths are always right, so that edits reach what stands behind the decoder.

use crate::input::{Input, edit};

/// Nesting that is looked into; certificates have 7 levels, extensions' contents included.
const MAX_DEPTH: usize = 10;

/// One element.
#[derive(Clone, Debug)]
pub(crate) struct Element {
    tag: u8,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Bytes(Vec<u8>),
    /// Of a constructed element, or of an OCTET STRING that holds DER.
    Elements(Vec<Element>),
}

impl Element {
    /// Reads exactly one element.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut all = elements(bytes, MAX_DEPTH)?;
        if all.len() == 1 { all.pop() } else { None }
    }

    /// Its bytes, with the shortest lengths.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        let content = match &self.content {
            Content::Bytes(bytes) => bytes.clone(),
            Content::Elements(elements) => {
                let mut content = Vec::new();
                elements.iter().for_each(|element| element.write(&mut content));
                content
            }
        };
        out.push(self.tag);
        match content.len() {
            len @ 0..=0x7f => out.push(len as u8),
            len @ 0x80..=0xff => out.extend([0x81, len as u8]),
            len => {
                out.push(0x82);
                out.extend((len as u16).to_be_bytes());
            }
        }
        out.extend(content);
    }

    /// A child, where there is one.
    pub(crate) fn child_mut(&mut self, number: usize) -> Option<&mut Self> {
        match &mut self.content {
            Content::Elements(elements) => elements.get_mut(number),
            Content::Bytes(_) => None,
        }
    }

    /// Replaces the content.
    pub(crate) fn set(&mut self, content: Vec<u8>) {
        self.content = Content::Bytes(content);
    }

    /// Changes an element somewhere in the tree as the input says.
    pub(crate) fn mutate(&mut self, input: &mut Input<'_>) {
        let number = input.below(self.count());
        let Some(found) = self.find(&mut { number }) else { return };
        match (input.u8() % 7, &mut found.content) {
            (0, _) => found.tag = input.u8(),
            (1, _) => found.content = Content::Bytes(input.chunk().to_vec()),
            (2, Content::Bytes(bytes)) => edit(bytes, input),
            (3, Content::Elements(elements)) if !elements.is_empty() => {
                elements.remove(input.u8() as usize % elements.len());
            }
            (4, Content::Elements(elements)) if !elements.is_empty() => {
                let at = input.u8() as usize % elements.len();
                elements.insert(at, elements[at].clone());
            }
            (5, Content::Elements(elements)) if !elements.is_empty() => {
                let (a, b) = (input.u8() as usize % elements.len(), input.u8() as usize % elements.len());
                elements.swap(a, b);
            }
            (_, Content::Elements(elements)) => {
                let at = input.u8() as usize % (elements.len() + 1);
                elements.insert(at, Self { tag: input.u8(), content: Content::Bytes(input.chunk().to_vec()) });
            }
            (_, Content::Bytes(bytes)) => {
                // A number or a name one off is a neighbour of what is right.
                if let Some(last) = bytes.last_mut() {
                    *last = last.wrapping_add(1);
                }
            }
        }
    }

    fn count(&self) -> usize {
        match &self.content {
            Content::Bytes(_) => 1,
            Content::Elements(elements) => 1 + elements.iter().map(Self::count).sum::<usize>(),
        }
    }

    fn find(&mut self, number: &mut usize) -> Option<&mut Self> {
        if *number == 0 {
            return Some(self);
        }
        *number -= 1;
        match &mut self.content {
            Content::Elements(elements) => {
                for element in elements {
                    let size = element.count();
                    if *number < size {
                        return element.find(number);
                    }
                    *number -= size;
                }
                None
            }
            Content::Bytes(_) => None,
        }
    }
}

fn elements(mut bytes: &[u8], depth: usize) -> Option<Vec<Element>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let (tag, len, rest) = match bytes {
            [tag, len @ 0..=0x7f, rest @ ..] => (*tag, usize::from(*len), rest),
            [tag, 0x81, len, rest @ ..] => (*tag, usize::from(*len), rest),
            [tag, 0x82, high, low, rest @ ..] => (*tag, usize::from(u16::from_be_bytes([*high, *low])), rest),
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        let nested = if (tag & 0x20 != 0 || tag == 0x04 && !content.is_empty()) && depth > 0 { elements(content, depth - 1) } else { None };
        out.push(Element { tag, content: nested.map_or_else(|| Content::Bytes(content.to_vec()), Content::Elements) });
        bytes = rest;
    }
    Some(out)
}
