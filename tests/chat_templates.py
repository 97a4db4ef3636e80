"""Chat templates of folders, which tests of models and of data use."""

# As tuned models' folders have it: roles are checked, a system prompt stands in the first turn, white space is cut off.
STRICT = (
    "{{ bos_token }}{% set ns = namespace(first='') %}"
    "{% if messages[0].role == 'system' %}{% set ns.first = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% endif %}\n"
    "{% for message in messages %}\n"
    "    {% if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns do not alternate') }}{% endif %}\n"
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' }}"
    "{{ (ns.first if loop.first else '') + message.content | trim }}{{ '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompt here') }}{% endif %}" + STRICT
