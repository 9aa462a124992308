//! The answers to many questions at once, a few lines of memory on their way at any time: find the slots, then the rows' rules,
//! then what these say. Without a branch on who asks what: a branch that goes wrong costs more than all else here. The few
//! whose slot has somebody else's row are answered one by one.

use super::{KEY, Question, Tables, VALUE, answer};
use crate::View;
use crate::cpu::{LINES_AT_ONCE, prefetch};
use crate::judged::Judged;
use crate::layout::POLICY_SLOT_WORDS;
use crate::rules::{DEPTH_MAX, Line, block_at, said};
use std::sync::atomic::{AtomicU64, Ordering};

/// What was found so far for each of a few questions.
struct Lanes<'a> {
    slots: [&'a [AtomicU64; POLICY_SLOT_WORDS]; LINES_AT_ONCE],
    blocks: [&'a Line; LINES_AT_ONCE],
    unsaid: [Judged; LINES_AT_ONCE],
}

/// Answers each question: `judged[i]` becomes the answer to `questions[i]`. Of the two the shorter counts.
#[inline]
pub fn judge_burst(view: &View, questions: &[Question], judged: &mut [Judged]) {
    let Some(tables) = Tables::of(view) else { return judged.fill(Judged::CLOSED) };
    let mut lanes = Lanes {
        slots: [&tables.slots[0]; LINES_AT_ONCE],
        blocks: [&tables.blocks[0]; LINES_AT_ONCE],
        unsaid: [Judged::CLOSED; LINES_AT_ONCE],
    };
    let count = questions.len().min(judged.len());
    let (questions, last) = questions[..count].as_chunks::<LINES_AT_ONCE>();
    let (judged, judged_last) = judged[..count].as_chunks_mut::<LINES_AT_ONCE>();
    for (questions, judged) in questions.iter().zip(judged) {
        lanes.judge(view, &tables, questions, judged);
    }
    if !last.is_empty() {
        lanes.judge(view, &tables, last, judged_last);
    }
}

impl<'a> Lanes<'a> {
    #[inline(always)]
    fn judge(&mut self, view: &View, tables: &Tables<'a>, questions: &[Question], judged: &mut [Judged]) {
        self.find_slots(view, tables, questions);
        let others = self.find_blocks(tables, questions);
        if self.look(questions, judged).is_deeper() {
            self.look_deeper(tables, questions, judged);
        }
        if others != 0 {
            self.ask_alone(view, questions, judged);
        }
    }

    #[inline(always)]
    fn find_slots(&mut self, view: &View, tables: &Tables<'a>, questions: &[Question]) {
        for (question, slot) in questions.iter().zip(&mut self.slots) {
            *slot = tables.slot(view.tag(&question.key));
            prefetch(*slot);
        }
    }

    /// A row of its own, or that of everybody. Not zero: in some slot stands another row.
    #[inline(always)]
    fn find_blocks(&mut self, tables: &Tables<'a>, questions: &[Question]) -> u64 {
        let mut others = 0;
        let lanes = self.slots.iter().zip(&mut self.blocks).zip(&mut self.unsaid);
        for (question, ((slot, block), unsaid)) in questions.iter().zip(lanes) {
            let (key, found) = (question.key.word(), slot[KEY].load(Ordering::Relaxed));
            let own = slot[VALUE].load(Ordering::Relaxed) as u32;
            let (otherwise, any) = tables.side(question.key);
            let (row, other) = if found == key { (own, 0) } else { (any, found) };
            *block = block_at(tables.blocks, row);
            prefetch(*block);
            *unsaid = otherwise;
            others |= other;
        }
        others
    }

    /// Answers what one block knows; returns what all say together.
    #[inline(always)]
    fn look(&self, questions: &[Question], judged: &mut [Judged]) -> Judged {
        let lanes = self.blocks.iter().zip(&self.unsaid);
        questions.iter().zip(judged).zip(lanes).fold(Judged::NOTHING, |all, ((question, judged), (block, unsaid))| {
            *judged = said(block, question.place, *unsaid);
            all.or(*judged)
        })
    }

    /// Those with many rules: a block of blocks for each step.
    #[inline(never)]
    fn look_deeper(&mut self, tables: &Tables<'a>, questions: &[Question], judged: &mut [Judged]) {
        let lanes = questions.len().min(LINES_AT_ONCE).min(judged.len());
        let (mut deeper, mut count) = ([0u8; LINES_AT_ONCE], 0);
        for (lane, judged) in judged.iter().enumerate().take(lanes) {
            deeper[count] = lane as u8;
            count += judged.is_deeper() as usize;
        }
        for _ in 1..DEPTH_MAX {
            for &lane in &deeper[..count] {
                self.blocks[lane as usize] = block_at(tables.blocks, judged[lane as usize].block());
                prefetch(self.blocks[lane as usize]);
            }
            let before = std::mem::take(&mut count);
            for at in 0..before {
                let lane = deeper[at] as usize;
                judged[lane] = said(self.blocks[lane], questions[lane].place, self.unsaid[lane]);
                deeper[count] = lane as u8;
                count += judged[lane].is_deeper() as usize;
            }
        }
        for &lane in &deeper[..count] {
            judged[lane as usize] = self.unsaid[lane as usize];
        }
    }

    /// Those in whose slot another row stands: theirs may stand behind it.
    #[inline(never)]
    fn ask_alone(&self, view: &View, questions: &[Question], judged: &mut [Judged]) {
        for ((question, judged), slot) in questions.iter().zip(judged).zip(&self.slots) {
            let found = slot[KEY].load(Ordering::Relaxed);
            if found != 0 && found != question.key.word() {
                *judged = answer(view, question);
            }
        }
    }
}
