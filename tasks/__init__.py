"""SeqIO tasks and mixtures of speech, piano music and folders of audio.

    module             corpus          environment variable
    tasks.speech       speech          AUDIOLM_SPEECH_DIR
    tasks.piano        piano           AUDIOLM_PIANO_DIR
    tasks.audio_folder audio_folder    AUDIOLM_AUDIO_DIR
    tasks.mixtures     speech_and_piano, from tasks.speech and tasks.piano

The environment variable of a corpus names a folder of audio files, a `.jsonl` manifest, a token
store of `cache_tokens`, or a prepared TFDS data set in TFDS_DATA_DIR (`tfds:librispeech`,
`tfds:ljspeech`). Audio files can have any format and rate. A folder, manifest or store can be a
URL. AUDIOLM_BUNDLE names the bundle whose tokenizers compute the tokens of the stages.

If these variables are set, the import of a module registers its tasks, as `seqio_cache_tasks`
requires. Run `seqio_cache_tasks` in the folder that contains `tasks`:

    PYTHONPATH=. AUDIOLM_AUDIO_DIR=~/recordings AUDIOLM_BUNDLE=runs/my_bundle \
      seqio_cache_tasks --module_import=tasks.audio_folder --tasks=audio_folder_tokens \
      --output_cache_dir=~/cache --alsologtostderr

In gin, set the folder instead; `register` registers the tasks and returns the name of a task:

    from __gin__ import dynamic_registration
    from tasks import audio_folder

    MIXTURE_OR_TASK_NAME = @audio_folder.register()
    audio_folder.register.audio_dir = "/home/me/recordings"
    audio_folder.register.task = "waveform"

`audiolm_jax.data.registration` lists the tasks of each corpus.
"""
