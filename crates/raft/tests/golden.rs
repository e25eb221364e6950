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
#[path = "harness/script.rs"]
mod script;

/// One test a script.
macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                goldenscript::run(&mut script::Script::default(), concat!("tests/scripts/", stringify!($name)))
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
    acknowledgements_that_wait_together_are_one,
    answer_to_an_earlier_term_confirms_no_round,
    append_speaks_of_nothing_behind_it,
    apply_goes_in_pieces_one_at_a_time,
    campaign_ends_with_a_snapshot_that_removed_the_node,
    candidate_follows_whoever_won,
    candidate_ignores_a_leader_of_an_earlier_term,
    commit_needs_a_quorum,
    commit_reaches_a_follower_that_pre_campaigned,
    commit_reaches_a_restarted_follower,
    commit_stays_within_what_is_known_to_match,
    compaction_keeps_what_followers_still_need,
    compaction_lets_go_of_what_is_applied_alone,
    compaction_overtakes_entries_that_are_read_for_a_follower,
    completed_write_says_nothing_of_another_at_its_index,
    completions_out_of_order_lose_nothing,
    conflicting_tail_is_replaced_one_term_at_a_time,
    crash_before_a_snapshot_is_installed,
    damage_brings_back_what_was_truncated,
    damage_ignores_a_late_repair,
    damage_is_repaired,
    damage_lasts_until_everything_is_durable_again,
    damage_strikes_twice_in_a_term,
    damaged_node_neither_votes_nor_campaigns,
    deposed_leader_ends_what_waits,
    distrusted_leader_hands_over,
    distrusted_state_machine_is_replaced_by_a_snapshot,
    election_by_quorum,
    election_with_split_votes,
    entries_read_for_a_lost_term_are_not_sent,
    entries_read_for_an_earlier_place_are_not_sent,
    figure_7_any_follower_comes_to_match,
    figure_8_an_earlier_term_is_not_committed_by_counting,
    figure_8_an_entry_of_the_own_term_commits_the_earlier_ones,
    follower_applies_in_batches_unless_somebody_waits,
    follower_applies_what_its_disk_has,
    follower_asks_the_leader_where_to_read,
    follower_that_loses_its_leader_ends_its_reads,
    followers_hear_of_a_commit_with_the_next_append_or_tick,
    half_of_an_even_cluster_does_not_commit,
    heartbeats_wait_for_no_disk,
    joint_configuration_is_left_by_the_next_leader,
    late_pre_vote_counts_for_nothing,
    late_read_answer_is_not_taken_for_a_later_question,
    late_rejection_takes_nothing_back,
    leader_counts_itself_when_its_disk_has_the_entry,
    leader_crash_loses_what_only_its_memory_had,
    leader_that_was_cut_off_answers_no_read,
    leader_with_a_stalled_disk_steps_down,
    leader_without_a_quorum_steps_down,
    learner_counts_for_nothing_and_stays_one_after_a_restart,
    left_out_voter_stands_for_election_until_that_is_committed,
    lost_append_is_noticed_on_a_slow_link,
    lost_connection_to_a_leader_that_lives_deposes_nobody,
    lost_connection_to_another_follower_means_nothing,
    lost_connection_to_the_leader_makes_the_best_follower_ask_at_once,
    lost_probe_is_sent_again_on_a_slow_link,
    lost_read_question_is_asked_again,
    lost_state_machine_is_replaced_by_a_snapshot,
    lost_state_machine_is_replaced_without_a_leader,
    members_are_refused_that_would_lose_the_quorum,
    members_change_only_when_the_term_is_settled,
    members_change_through_a_joint_configuration,
    membership_rolls_back_with_its_entry,
    node_in_a_later_term_blocks_nobody,
    old_entries_are_read_from_disk,
    overloaded_leader_refuses,
    own_vote_counts_when_it_is_durable,
    pre_candidate_never_ceases_to_ask,
    pre_vote_asks_who_is_in_an_earlier_term,
    pre_vote_changes_nothing_at_the_one_asked,
    pre_vote_is_granted_to_a_leader_that_stepped_down,
    pre_vote_keeps_a_partitioned_node_from_raising_the_term,
    probe_waits_for_a_slow_disk,
    proposals_away_from_the_leader_name_it,
    proposals_that_come_together_travel_together,
    read_needs_a_quorum_of_the_voters,
    read_waits_until_the_leader_knows_what_is_committed,
    reads_that_wait_share_a_round,
    removed_leader_leads_until_that_is_committed_and_tells_the_others,
    restart_of_all_keeps_what_was_acknowledged,
    single_node_applies_again_after_a_restart,
    single_node_commits_what_its_disk_has,
    snapshot_brings_back_a_follower_that_was_away,
    snapshot_drops_an_uncommitted_membership,
    snapshot_ends_proposals_that_wait_for_what_it_holds,
    snapshot_of_a_later_term_is_a_word_of_that_term,
    snapshot_replaces_a_conflicting_entry_at_its_index,
    snapshot_that_is_older_than_the_log_is_discarded,
    snapshot_waits_until_nothing_is_being_applied,
    snapshot_without_any_entry_is_none,
    stale_append_cuts_nothing_off,
    start_asks_around_soon,
    stepping_down_keeps_the_vote,
    term_and_vote_are_one_write,
    term_is_durable_before_its_entries,
    transfer_that_is_not_taken_up_ends,
    transfer_to_a_node_that_is_damaged_by_then_ends,
    transfer_to_one_that_cannot_lead_is_refused,
    transfer_waits_until_the_successor_has_everything,
    two_nodes_need_each_other,
    unnoticed_loss_is_found_by_the_leader,
    up_to_date_means_the_later_term_then_the_longer_log,
    vote_is_durable_before_it_is_granted,
    vote_that_waits_is_dropped_in_a_later_term,
    votes_count_once,
    window_bounds_the_bytes_on_their_way,
    window_bounds_what_is_on_its_way,
}
