"""SeqIO tasks and mixtures, registered when one of these modules is imported or called.

    module             corpus          environment variable
    tasks.speech       speech          AUDIOLM_SPEECH_DIR
    tasks.piano        piano           AUDIOLM_PIANO_DIR
    tasks.audio_folder audio_folder    AUDIOLM_AUDIO_DIR
    tasks.mixtures     speech_and_piano, from the two above

The variable names a folder of audio files (any format and rate), a `.jsonl` manifest, a TFDS data
set (`tfds:librispeech`, `tfds:ljspeech`; prepared, in TFDS_DATA_DIR) or a token store of
`cache_tokens`; a folder, manifest or store may be a URL. AUDIOLM_BUNDLE names the bundle whose
tokenizers compute the tokens of the stages. With these variables, importing a module registers its
tasks, as `seqio_cache_tasks` requires; run it in the folder that contains `tasks`:

    PYTHONPATH=. AUDIOLM_AUDIO_DIR=~/recordings AUDIOLM_BUNDLE=runs/my_bundle \
      seqio_cache_tasks --module_import=tasks.audio_folder --tasks=audio_folder_tokens \
      --output_cache_dir=~/cache --alsologtostderr

In gin, set the folder instead; `register` returns the name of the task:

    from __gin__ import dynamic_registration
    from tasks import audio_folder

    MIXTURE_OR_TASK_NAME = @audio_folder.register()
    audio_folder.register.audio_dir = "/home/me/recordings"
    audio_folder.register.task = "waveform"

`audiolm_jax.data.registration` lists the tasks of each corpus.
"""
