def test_fix(make_job, tiny_tokenizer, write_job, job_tree):
    job = make_job({"loss.alpha": 0.5})
    print(len(tiny_tokenizer), job.student.init, tiny_tokenizer("The river.").input_ids, tiny_tokenizer.decode(tiny_tokenizer("The river.").input_ids))
    print(tiny_tokenizer.apply_chat_template([{"role":"user","content":"hi"}], tokenize=False))
    assert job.loss.alpha == .5
