//! Golden scripts: each file in `scripts` opens with prose that says what happens and why, then tells a cluster what to
//! do, and draws who sent what to whom, what was written, and what came of it. `UPDATE_GOLDENFILES=1` draws them anew.
//!
//! How to read what is drawn: `4@2` is the place in the log with index 4 and term 2; `n1 → n2 t2 append …` is sent by
//! node 1 in term 2; `n2 ← n1 append` is its arrival; `write 3: t2 vote n1; cut to 3; [4@2 a=1]` goes to the disk and is
//! there at `synced 3`; `c5` is the fifth request.

#![allow(clippy::unwrap_used, reason = "a harness of tests may")]

mod harness;

#[path = "harness/commands.rs"]
mod commands;

/// One test a script.
macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                goldenscript::run(&mut commands::Script::default(), concat!("tests/scripts/", stringify!($name)))
                    .unwrap();
            }
        )*

        #[test]
        fn every_script_is_run() {
            let mut found: Vec<String> = std::fs::read_dir("tests/scripts")
                .unwrap()
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .collect();
            found.sort();
            let mut listed = vec![$(stringify!($name)),*];
            listed.sort_unstable();
            assert_eq!(found, listed);
        }
    };
}

scripts! {
    candidate_follows_whoever_won,
    candidate_ignores_a_leader_of_an_earlier_term,
    commit_reaches_a_follower_that_pre_campaigned,
    commit_reaches_a_restarted_follower,
    damage_brings_back_what_was_truncated,
    damage_ignores_a_late_repair,
    damage_is_repaired,
    damage_strikes_twice_in_a_term,
    damaged_node_neither_votes_nor_campaigns,
    election_by_quorum,
    election_with_split_votes,
    figure_7_any_follower_comes_to_match,
    figure_8_an_earlier_term_is_not_committed_by_counting,
    figure_8_an_entry_of_the_own_term_commits_the_earlier_ones,
    late_pre_vote_counts_for_nothing,
    lost_append_is_noticed_on_a_slow_link,
    lost_probe_is_sent_again_on_a_slow_link,
    pre_vote_changes_nothing_at_the_one_asked,
    pre_vote_is_granted_to_a_leader_that_stepped_down,
    pre_vote_keeps_a_partitioned_node_from_raising_the_term,
    probe_waits_for_a_slow_disk,
    stepping_down_keeps_the_vote,
    term_and_vote_are_one_write,
    term_is_durable_before_its_entries,
    unnoticed_loss_is_found_by_the_leader,
    up_to_date_means_the_later_term_then_the_longer_log,
    vote_is_durable_before_it_is_granted,
    vote_that_waits_is_dropped_in_a_later_term,
    votes_count_once,
}
