"""The live demo: a web page that continues audio and plays it while it is sampled.

`requests` checks a request, `making` samples the audio piece by piece, `jobs` stores the results
for a limited time, `routes` sends the results, and `page` is the user interface. `speech_api`
serves speech to programs. Only `page`, `routes`, `speech_api` and `server` use web libraries.
"""
